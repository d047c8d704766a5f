#include "log/index_label.h"

#include <stdlib.h>

#include <xxhash.h>

#include "base/must.h"

#define TABLE_CAP_FIRST 256

static void
place(struct index_labels *set, uint32_t number)
{
    /* realloc kept the hashes. NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult) */
    uint64_t at = set->labels[number].hash & (set->table_cap - 1);

    must(number < set->table_cap / 2); /* so there is a free place */
    while (set->table[at] != 0)
        at = (at + 1) & (set->table_cap - 1);
    set->table[at] = number + 1;
}

/* At most half full, so that a search ends soon. */
static bool
make_room(struct index_labels *set)
{
    struct index_label *labels;
    uint32_t            cap = set->table_cap == 0 ? TABLE_CAP_FIRST : set->table_cap * 2;

    if (set->count < set->cap)
        return true;
    labels = realloc(set->labels, cap / 2 * sizeof *labels);
    if (labels == NULL)
        return false;
    set->labels = labels;
    set->cap = cap / 2;
    free(set->table);
    set->table = calloc(cap, sizeof *set->table);
    set->table_cap = set->table == NULL ? 0 : cap;
    if (set->table == NULL)
        return false;
    for (uint32_t i = 0; i < set->count; i++)
        place(set, i);
    return true;
}

/* The label's number + 1; 0 when memory is out. */
static uint32_t
number_of(struct index_labels *set, struct slice name, uint32_t kind)
{
    uint64_t hash = XXH3_64bits_withSeed(name.data, name.len, kind);
    uint64_t at;

    if (!make_room(set))
        return 0;
    must(set->count < set->cap);
    must(set->cap == set->table_cap / 2);
    for (at = hash & (set->table_cap - 1); set->table[at] != 0;
         at = (at + 1) & (set->table_cap - 1)) {
        const struct index_label *have = &set->labels[set->table[at] - 1];

        if (have->hash == hash && have->kind == kind && slice_eq(have->name, name))
            return set->table[at];
    }
    set->labels[set->count] = (struct index_label){.name = name, .hash = hash, .kind = kind};
    set->table[at] = ++set->count;
    return set->count;
}

/* Neighbouring events mostly have the same label: looked at before any hash. */
static bool
note(struct index_labels *set, struct slice name, uint32_t kind, uint32_t *last, uint32_t *out)
{
    *out = 0;
    if (name.len == 0)
        return true;
    if (*last == 0 || !slice_eq(set->labels[*last - 1].name, name))
        *last = number_of(set, name, kind);
    if (*last == 0)
        return false;
    must(*last <= set->count);
    must(set->labels[*last - 1].kind == kind);
    set->labels[*last - 1].count++;
    *out = *last;
    return true;
}

static void
distribute(struct index_labels *set, const struct index_event *events, uint32_t count)
{
    uint32_t start = 0, taken = 0;

    for (uint32_t i = 0; i < set->count; i++) {
        set->labels[i].start = start;
        start += set->labels[i].count;
        set->labels[i].count = 0;
    }
    must(start <= 2 * count);
    for (uint32_t i = 0; i < 2 * count; i++) {
        struct index_label *label;

        if (set->of_event[i] == 0)
            continue;
        must(set->of_event[i] <= set->count);
        label = &set->labels[set->of_event[i] - 1];
        set->positions[label->start + label->count] = events[i / 2].pos;
        label->count++;
        taken++;
    }
    must(taken == start); /* every label has as many as were counted */
}

int
logi_labels_init(struct index_labels *out, const struct index_event *events, uint32_t count,
                 struct err *err)
{
    uint32_t last_category = 0;
    uint32_t last_type = 0;
    int      rc = 0;

    must(out->labels == NULL);
    must(count < UINT32_MAX / 4);
    if (count == 0)
        return 0;
    out->of_event = calloc(count, 2 * sizeof *out->of_event);
    out->positions = calloc(count, 2 * sizeof *out->positions);
    if (out->of_event == NULL || out->positions == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "index: no memory for %u events", count);
    for (uint32_t i = 0; i < count; i++) {
        must(i == 0 || events[i].pos > events[i - 1].pos);
        if (!note(out, events[i].category, INDEX_CATEGORY, &last_category, &out->of_event[2 * i]) ||
            !note(out, events[i].type, INDEX_TYPE, &last_type, &out->of_event[2 * i + 1]))
            FAIL(err, E_NOMEM, ERR_RETRY, "index: no memory for %u labels", out->count);
    }
    distribute(out, events, count);
out:
    return rc;
}

void
logi_labels_fini(struct index_labels *labels)
{
    free(labels->labels);
    free(labels->positions);
    free(labels->of_event);
    free(labels->table);
    *labels = (struct index_labels){.labels = NULL};
}
