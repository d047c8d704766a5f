/*
 * Quotas of appends: events and bytes a second, for each category. A token bucket of one second's
 * worth; what a single request takes beyond that is owed, so that a request of any size gets
 * through once the bucket is not empty. Everything here is the loop's, but for server_set_quotas.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/must.h"
#include "server/append_int.h"

#define BUCKETS 1024u
#define COUNT_MAX 20000u /* beyond: those that owe nothing are forgotten, the rest share one */
#define SECOND_US 1000000

struct bucket {
    struct bucket *next;
    uint64_t       rate[2];   /* events, bytes; 0: no bound */
    int64_t        tokens[2]; /* in millionths; negative: owed */
    uint64_t       at_us;
    size_t         len;
    char           name[];
};

struct quotas {
    struct message       message; /* first: from who set them to the loop */
    struct server       *server;
    struct bucket       *table[BUCKETS];
    uint32_t             count;
    struct server_quota *rules; /* their texts follow */
    uint32_t             rule_count;
};

void
serveri_quotas_free(struct quotas *q)
{
    if (q == NULL)
        return;
    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (struct bucket *b = q->table[i], *next; b != NULL; b = next) {
            next = b->next;
            free(b);
        }
    }
    free(q->rules);
    free(q);
}

static void
on_set(struct message *m)
{
    struct quotas *q = (struct quotas *)m;
    struct server *s = q->server;

    serveri_quotas_free(s->quotas);
    s->quotas = q;
}

int
server_set_quotas(struct server *s, const struct server_quota *list, uint32_t count,
                  struct err *err)
{
    struct quotas *q = calloc(1, sizeof *q);
    size_t         bytes = 0;
    char          *text;

    for (uint32_t i = 0; i < count; i++)
        bytes += list[i].category.len;
    if (q != NULL)
        q->rules = malloc(count * sizeof *q->rules + bytes + 1);
    if (q == NULL || q->rules == NULL) {
        free(q);
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "no memory for the quotas");
    }
    text = (char *)(q->rules + count);
    for (uint32_t i = 0; i < count; i++) {
        q->rules[i] = list[i];
        q->rules[i].category.data = text;
        if (list[i].category.len != 0)
            memcpy(text, list[i].category.data, list[i].category.len);
        text += list[i].category.len;
    }
    q->rule_count = count;
    q->server = s;
    q->message.fn = on_set;
    serveri_post(s, &q->message);
    return 0;
}

/* Streams without a dash have no category: they share one bucket. */
static struct slice
category_of(struct slice stream)
{
    const char *dash = memchr(stream.data, '-', stream.len);

    return slice_of(stream.data, dash == NULL ? 0 : (size_t)(dash - (const char *)stream.data));
}

static const struct server_quota *
rule_of(const struct quotas *q, struct slice category)
{
    const struct server_quota *rest = NULL;

    for (uint32_t i = 0; i < q->rule_count; i++) {
        if (category.len != 0 && slice_eq(q->rules[i].category, category))
            return &q->rules[i];
        if (slice_is(q->rules[i].category, "*"))
            rest = &q->rules[i];
    }
    return rest;
}

static void
refill(struct bucket *b, uint64_t now)
{
    uint64_t passed = now - b->at_us;

    b->at_us = now;
    for (int i = 0; i < 2; i++) {
        int64_t  full = (int64_t)(b->rate[i] * SECOND_US);
        uint64_t most = b->rate[i] == 0 ? 0 : INT64_MAX / 2 / b->rate[i]; /* pays any debt */

        b->tokens[i] += (int64_t)(b->rate[i] * (passed < most ? passed : most));
        if (b->tokens[i] > full)
            b->tokens[i] = full;
    }
}

static bool
is_full(const struct bucket *b)
{
    return b->tokens[0] >= (int64_t)(b->rate[0] * SECOND_US) &&
           b->tokens[1] >= (int64_t)(b->rate[1] * SECOND_US);
}

/* A bucket that is full is as good as a new one. */
static void
forget(struct quotas *q, uint64_t now)
{
    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (struct bucket **link = &q->table[i]; *link != NULL;) {
            struct bucket *b = *link;

            refill(b, now);
            if (!is_full(b)) {
                link = &b->next;
                continue;
            }
            *link = b->next;
            free(b);
            q->count--;
        }
    }
}

static struct bucket *
bucket_of(struct quotas *q, struct slice name, const struct server_quota *rule, uint64_t now)
{
    const uint8_t  *p = name.data;
    uint32_t        h = 2166136261u;
    struct bucket **link, *b;

    for (size_t i = 0; i < name.len; i++)
        h = (h ^ p[i]) * 16777619u;
    link = &q->table[(h ^ h >> 15) % BUCKETS];
    for (b = *link; b != NULL; b = b->next)
        if (slice_eq(slice_of(b->name, b->len), name))
            return b;
    if (q->count >= COUNT_MAX)
        forget(q, now);
    if (q->count >= COUNT_MAX && name.len != 0)
        return bucket_of(q, slice_of(NULL, 0), rule, now);
    b = malloc(sizeof *b + name.len + 1);
    if (b == NULL)
        return NULL;
    *b = (struct bucket){.next = *link,
                         .rate = {rule->events_per_s, rule->bytes_per_s},
                         .at_us = now,
                         .len = name.len};
    for (int i = 0; i < 2; i++)
        b->tokens[i] = (int64_t)(b->rate[i] * SECOND_US);
    if (name.len != 0)
        memcpy(b->name, name.data, name.len);
    *link = b;
    q->count++;
    return b;
}

static uint64_t
bytes_of(const struct log_write *w)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < w->count; i++)
        bytes += w->events[i].type.len + w->events[i].data.len + w->events[i].meta.len;
    return bytes;
}

/* The bucket that a write is taken from; NULL: none. */
static struct bucket *
find(struct quotas *q, const struct log_write *w, uint64_t now)
{
    struct slice               category = category_of(w->stream);
    const struct server_quota *rule;
    struct bucket             *b;

    if (w->stream.len != 0 && *(const char *)w->stream.data == '$')
        return NULL;
    rule = rule_of(q, category);
    if (rule == NULL || (rule->events_per_s == 0 && rule->bytes_per_s == 0))
        return NULL;
    b = bucket_of(q, category, rule, now);
    if (b != NULL)
        refill(b, now);
    return b;
}

/* Seconds until the bucket holds something again; 0: it does. */
static uint64_t
wait_s(const struct bucket *b)
{
    uint64_t s = 0;

    for (int i = 0; i < 2; i++) {
        uint64_t owed, wait;

        if (b->rate[i] == 0 || b->tokens[i] > 0)
            continue;
        owed = (uint64_t)-b->tokens[i] / SECOND_US;
        wait = owed / b->rate[i] + 1;
        if (wait > s)
            s = wait;
    }
    return s;
}

/* True: what is asked for was taken; else the category that has to wait, and how long. */
static bool
take(struct server *s, const struct log_write *writes, uint32_t count, struct slice *category,
     uint64_t *seconds)
{
    struct quotas *q = s->quotas;
    uint64_t       now;

    if (q == NULL || q->rule_count == 0)
        return true;
    now = s->env->ops->mono_us(s->env);
    for (uint32_t i = 0; i < count; i++) {
        struct bucket *b = find(q, &writes[i], now);

        *seconds = b == NULL ? 0 : wait_s(b);
        if (*seconds == 0)
            continue;
        *category = category_of(writes[i].stream);
        s->stats.quota_refused++;
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct bucket *b = find(q, &writes[i], now);

        if (b == NULL)
            continue;
        if (b->rate[0] != 0)
            b->tokens[0] -= (int64_t)writes[i].count * SECOND_US;
        if (b->rate[1] != 0)
            b->tokens[1] -= (int64_t)bytes_of(&writes[i]) * SECOND_US;
    }
    return true;
}

int
serveri_quota_try(struct server *s, const struct log_write *writes, uint32_t count,
                  uint64_t *seconds, struct err *err)
{
    struct slice category;

    if (take(s, writes, count, &category, seconds))
        return 0;
    RETURN_ERR(err, E_LIMIT, ERR_RETRY,
               "the quota of category \"%.*s\" is used up: send again in %llu s",
               SLICE_FMT(category), (unsigned long long)*seconds);
}

bool
serveri_quota_take(struct call *call, const struct log_write *writes, uint32_t count)
{
    struct err err;
    uint64_t   seconds;

    if (serveri_quota_try(call->conn->server, writes, count, &seconds, &err) == 0)
        return true;
    call->retry_after_s = seconds < 3600 ? (uint32_t)seconds : 3600;
    call_refuse(call, 429, "over-quota", err.text);
    return false;
}
