/* A group's settings: what they are when nothing is said, as JSON, and what is refused. */
#include <inttypes.h>
#include <string.h>

#include "base/must.h"
#include "core/group_int.h"

#define MS_MAX UINT32_C(86400000) /* a day */
#define COUNT_MAX 100000u
#define PATTERN_MAX 4096u

static const struct {
    const char         *name, *kurrent;
    enum group_strategy strategy;
} strategies[] = {
    {"single", "DispatchToSingle", GROUP_SINGLE},
    {"round-robin", "RoundRobin", GROUP_ROUND_ROBIN},
    {"pinned", "Pinned", GROUP_PINNED},
    {"pinned-by-correlation", "PinnedByCorrelation", GROUP_CORRELATION},
};

const char *
group_strategy_name(enum group_strategy strategy)
{
    must(strategy < sizeof strategies / sizeof strategies[0]);
    must(strategies[strategy].strategy == strategy);
    return strategies[strategy].name;
}

bool
group_strategy_of(struct slice name, enum group_strategy *out)
{
    for (size_t i = 0; i < sizeof strategies / sizeof strategies[0]; i++) {
        if (!slice_is(name, strategies[i].name) && !slice_is(name, strategies[i].kurrent))
            continue;
        *out = strategies[i].strategy;
        return true;
    }
    return false;
}

void
group_settings_init(struct group_settings *s)
{
    *s = (struct group_settings){
        .strategy = GROUP_ROUND_ROBIN,
        .from = GROUP_END,
        .message_timeout_ms = 30000,
        .max_retry_count = 10,
        .checkpoint_after_ms = 2000,
        .min_checkpoint_count = 10,
        .max_checkpoint_count = 1000,
        .live_buffer_size = 500,
        .read_batch_size = 20,
        .history_buffer_size = 500,
    };
}

struct number {
    const char *name;
    uint32_t   *value;
    uint32_t    least, most;
};

#define NUMBERS 9

static void
numbers_of(struct group_settings *s, struct number out[NUMBERS])
{
    struct number all[NUMBERS] = {
        {"message_timeout_ms", &s->message_timeout_ms, 0, MS_MAX},
        {"max_retry_count", &s->max_retry_count, 0, 1000000},
        {"checkpoint_after_ms", &s->checkpoint_after_ms, 10, MS_MAX},
        {"min_checkpoint_count", &s->min_checkpoint_count, 1, COUNT_MAX},
        {"max_checkpoint_count", &s->max_checkpoint_count, 1, COUNT_MAX},
        {"max_subscriber_count", &s->max_subscriber_count, 0, GROUP_MEMBERS_MAX},
        {"live_buffer_size", &s->live_buffer_size, 1, GROUP_HELD_MAX / 2},
        {"read_batch_size", &s->read_batch_size, 1, GROUP_HELD_MAX / 2},
        {"history_buffer_size", &s->history_buffer_size, 1, GROUP_HELD_MAX / 2},
    };

    memcpy(out, all, sizeof all);
}

struct flag {
    const char *name;
    bool       *value;
};

/* reading */

static int
read_text(struct slice raw, const char *name, struct slice *out, struct buf *texts, struct err *err)
{
    size_t at = texts->len;

    if (json_type(raw) != JSON_STRING)
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "%s: must be a string", name);
    if (raw.len > PATTERN_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: is too long", name);
    must(raw.len <= texts->cap - texts->len);
    /* Room for all of them was made before: what points there stays. */
    if (json_string_decode(raw, texts, err) != 0)
        return E_SYNTAX;
    *out = slice_of(texts->data + at, texts->len - at);
    if (out->len > 0 && memchr(out->data, '\0', out->len) != NULL)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "%s: has a NUL", name);
    return 0;
}

static int
read_filter(struct slice raw, struct group_settings *s, struct buf *texts, struct err *err)
{
    struct json_field f[] = {{.name = "prefix"},       {.name = "category"},
                             {.name = "type"},         {.name = "type_prefix"},
                             {.name = "stream_regex"}, {.name = "type_regex"},
                             {.name = "system"}};
    struct slice     *to[] = {&s->prefix,      &s->category,     &s->type,
                              &s->type_prefix, &s->stream_regex, &s->type_regex};
    int               rc;

    rc = json_pick(raw, f, 7, JSON_PICK_ONLY, err);
    if (rc != 0)
        err_prefix(err, "filter");
    for (int i = 0; rc == 0 && i < 6; i++)
        if (f[i].value.data != NULL)
            rc = read_text(f[i].value, f[i].name, to[i], texts, err);
    if (rc == 0 && f[6].value.data != NULL && !json_bool(f[6].value, &s->system))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "filter.system: must be true or false");
    return rc;
}

static int
read_from(struct slice raw, struct group_settings *s, struct err *err)
{
    if (json_uint64(raw, &s->at)) {
        s->from = GROUP_AT;
        return 0;
    }
    s->at = 0;
    if (slice_is(raw, "\"beginning\""))
        s->from = GROUP_BEGINNING;
    else if (slice_is(raw, "\"end\""))
        s->from = GROUP_END;
    else
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "from: must be \"beginning\", \"end\" or a number");
    return 0;
}

static int
read_numbers(const struct json_field *f, struct number *numbers, struct err *err)
{
    for (int i = 0; i < NUMBERS; i++) {
        uint64_t v;

        if (f[i].value.data == NULL)
            continue;
        if (!json_uint64(f[i].value, &v) || v < numbers[i].least || v > numbers[i].most)
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "%s: must be a number from %" PRIu32 " to %" PRIu32, numbers[i].name,
                       numbers[i].least, numbers[i].most);
        *numbers[i].value = (uint32_t)v;
    }
    return 0;
}

static int
read_strategy(struct slice raw, struct group_settings *s, struct err *err)
{
    if (raw.len > 2 && json_type(raw) == JSON_STRING &&
        group_strategy_of(slice_of((const char *)raw.data + 1, raw.len - 2), &s->strategy))
        return 0;
    RETURN_ERR(err, E_INVALID, ERR_DATA,
               "strategy: must be single, round-robin, pinned or pinned-by-correlation");
}

static int
read_moved(struct slice raw, struct group_settings *s, struct err *err)
{
    s->skip_moved = slice_is(raw, "\"skip\"");
    if (!s->skip_moved && !slice_is(raw, "\"deliver\""))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA, "moved: must be \"deliver\" or \"skip\"");
    return 0;
}

static int
read_links(struct slice raw, struct group_settings *s, struct err *err)
{
    s->resolve_links = slice_is(raw, "\"resolve\"");
    s->deliver_links = slice_is(raw, "\"deliver\"");
    if (!s->resolve_links && !s->deliver_links && !slice_is(raw, "\"ignore\""))
        RETURN_ERR(err, E_SCHEMA, ERR_DATA,
                   "links: must be \"ignore\", \"resolve\" or \"deliver\"");
    return 0;
}

int
group_settings_read(struct slice json, struct group_settings *s, struct buf *texts, struct err *err)
{
    struct number     numbers[NUMBERS];
    struct json_field f[NUMBERS + 8] = {{0}};
    struct flag       flags[] = {{"resolve_links", &s->resolve_links},
                                 {"extra_statistics", &s->extra_statistics},
                                 {"park_behind", &s->park_behind}};
    const uint8_t    *at;
    int               rc = 0;

    numbers_of(s, numbers);
    for (int i = 0; i < NUMBERS; i++)
        f[i].name = numbers[i].name;
    for (int i = 0; i < 3; i++)
        f[NUMBERS + i].name = flags[i].name;
    f[NUMBERS + 3].name = "strategy";
    f[NUMBERS + 4].name = "from";
    f[NUMBERS + 5].name = "filter";
    f[NUMBERS + 6].name = "moved";
    f[NUMBERS + 7].name = "links";
    if (json.len > GROUPI_SETTINGS_MAX)
        FAIL(err, E_LIMIT, ERR_DATA, "the settings are longer than %u bytes", GROUPI_SETTINGS_MAX);
    if (!buf_reserve(texts, GROUPI_SETTINGS_MAX))
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for settings");
    at = texts->data;
    TRY(json_pick(json, f, NUMBERS + 8, JSON_PICK_ONLY, err));
    TRY(read_numbers(f, numbers, err));
    for (int i = 0; i < 3; i++)
        if (f[NUMBERS + i].value.data != NULL && !json_bool(f[NUMBERS + i].value, flags[i].value))
            FAIL(err, E_SCHEMA, ERR_DATA, "%s: must be true or false", flags[i].name);
    if (f[NUMBERS + 3].value.data != NULL)
        TRY(read_strategy(f[NUMBERS + 3].value, s, err));
    if (f[NUMBERS + 4].value.data != NULL)
        TRY(read_from(f[NUMBERS + 4].value, s, err));
    if (f[NUMBERS + 5].value.data != NULL)
        TRY(read_filter(f[NUMBERS + 5].value, s, texts, err));
    if (f[NUMBERS + 6].value.data != NULL)
        TRY(read_moved(f[NUMBERS + 6].value, s, err));
    if (f[NUMBERS + 7].value.data != NULL)
        TRY(read_links(f[NUMBERS + 7].value, s, err));
    must(texts->data == at); /* what points into it is where it was */
out:
    return rc;
}

/* checking */

static bool
has_filter(const struct group_settings *s)
{
    return s->system || s->prefix.len + s->category.len + s->type.len + s->type_prefix.len +
                                s->stream_regex.len + s->type_regex.len >
                            0;
}

int
group_settings_check(const struct group_settings *s, struct slice source, struct err *err)
{
    struct group_settings copy = *s;
    struct number         numbers[NUMBERS];
    bool                  pinned = s->strategy == GROUP_PINNED || s->strategy == GROUP_CORRELATION;

    numbers_of(&copy, numbers);
    for (int i = 0; i < NUMBERS; i++)
        if (*numbers[i].value < numbers[i].least || *numbers[i].value > numbers[i].most)
            RETURN_ERR(err, E_INVALID, ERR_DATA,
                       "%s: must be a number from %" PRIu32 " to %" PRIu32, numbers[i].name,
                       numbers[i].least, numbers[i].most);
    if (s->min_checkpoint_count > s->max_checkpoint_count)
        RETURN_ERR(err, E_INVALID, ERR_DATA,
                   "min_checkpoint_count: must not be above max_checkpoint_count");
    if (has_filter(s) && !slice_is(source, "$all"))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "filter: only $all takes one");
    if (s->park_behind && !pinned)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "park_behind: only pinned strategies have an order");
    if (s->park_behind && s->resolve_links)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "park_behind: not together with resolve_links");
    return 0;
}

/* writing */

static void
put_filter(const struct group_settings *s, struct json_out *o)
{
    const struct slice texts[] = {s->prefix,      s->category,     s->type,
                                  s->type_prefix, s->stream_regex, s->type_regex};
    const char *const  names[] = {"prefix",      "category",     "type",
                                  "type_prefix", "stream_regex", "type_regex"};

    json_out_key(o, "filter");
    json_out_object(o);
    for (int i = 0; i < 6; i++) {
        if (texts[i].len == 0)
            continue;
        json_out_key(o, names[i]);
        json_out_string(o, texts[i]);
    }
    if (s->system) {
        json_out_key(o, "system");
        json_out_bool(o, true);
    }
    json_out_object_end(o);
}

void
group_settings_write(const struct group_settings *s, struct json_out *o)
{
    struct group_settings copy = *s;
    struct number         numbers[NUMBERS];

    json_out_key(o, "strategy");
    json_out_str(o, group_strategy_name(s->strategy));
    json_out_key(o, "from");
    if (s->from == GROUP_AT)
        json_out_u64(o, s->at);
    else
        json_out_str(o, s->from == GROUP_END ? "end" : "beginning");
    numbers_of(&copy, numbers);
    for (int i = 0; i < NUMBERS; i++) {
        json_out_key(o, numbers[i].name);
        json_out_u64(o, *numbers[i].value);
    }
    json_out_key(o, "resolve_links");
    json_out_bool(o, s->resolve_links);
    json_out_key(o, "links");
    json_out_str(o, s->resolve_links ? "resolve" : s->deliver_links ? "deliver" : "ignore");
    json_out_key(o, "moved");
    json_out_str(o, s->skip_moved ? "skip" : "deliver");
    json_out_key(o, "extra_statistics");
    json_out_bool(o, s->extra_statistics);
    json_out_key(o, "park_behind");
    json_out_bool(o, s->park_behind);
    if (has_filter(s))
        put_filter(s, o);
}
