/*
 * Where an order's fulfilment is. An answer is kept for a short while for the
 * whole process; that it may be out of date does not matter for correctness,
 * because either side refuses for itself what is not its own.
 */
#include "shop.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT_MS 1000
#define HOLD_US 20000
#define HOLD_MAX_US 1000000

struct router {
    char           *url;
    int64_t         keep_us;
    pthread_mutex_t lock;
    struct route    last; /* old side, epoch 0, until an answer came */
    int64_t         good_until;
};

struct router *
router_new(const char *url, int64_t cache_ms)
{
    struct router *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return NULL;
    (void)pthread_mutex_init(&r->lock, NULL);
    r->keep_us = cache_ms * 1000;
    if (asprintf(&r->url, "%s%c", url, strchr(url, '?') != NULL ? '&' : '?') < 0) {
        r->url = NULL;
        router_free(r);
        return NULL;
    }
    return r;
}

void
router_free(struct router *r)
{
    if (r == NULL)
        return;
    (void)pthread_mutex_destroy(&r->lock);
    free(r->url);
    free(r);
}

static bool
read_side(const char *name, enum side *side)
{
    static const char *const names[] = {"old", "new", "hold"};

    for (int i = 0; name != NULL && i < 3; i++) {
        if (strcmp(names[i], name) == 0) {
            *side = (enum side)i;
            return true;
        }
    }
    return false;
}

static bool
read_answer(const char *text, struct route *out)
{
    json_t       *body = json_loads(text, 0, NULL);
    const json_t *epoch = json_object_get(body, "epoch");
    const json_t *retry = json_object_get(body, "retry_after_ms");
    bool          ok;

    out->known = true;
    ok = read_side(json_string_value(json_object_get(body, "side")), &out->side) &&
         json_is_integer(epoch);
    out->epoch = json_integer_value(epoch);
    out->retry_us = HOLD_US;
    if (json_is_integer(retry) && json_integer_value(retry) > 0)
        out->retry_us = json_integer_value(retry) * 1000;
    if (out->retry_us > HOLD_MAX_US)
        out->retry_us = HOLD_MAX_US;
    json_decref(body);
    return ok;
}

static bool
use_kept(struct router *r, struct route *out)
{
    bool good;

    (void)pthread_mutex_lock(&r->lock);
    good = clock_mono_us() < r->good_until;
    *out = r->last;
    (void)pthread_mutex_unlock(&r->lock);
    return good;
}

void
router_ask(struct router *r, struct wire *wire, int64_t id, bool afresh, struct route *out)
{
    struct route answer = {0};
    char         url[1024];
    int64_t      asked;
    bool         ok, keep;

    if (use_kept(r, out) && !afresh)
        return;
    asked = clock_mono_us();
    (void)snprintf(url, sizeof(url), "%skey=%lld&consumer=shop", r->url, (long long)id);
    ok = wire_call(wire, "GET", url, NULL, NULL, NULL, ASK_TIMEOUT_MS) == 200 &&
         read_answer(wire_text(wire), &answer);
    keep = !ok || (answer.side != SIDE_HOLD && wire_may_cache(wire));
    (void)pthread_mutex_lock(&r->lock);
    /* An answer that was overtaken by one of a later epoch is dropped. */
    if (ok && answer.epoch >= r->last.epoch) {
        if (answer.side != SIDE_HOLD)
            r->last = answer;
        *out = answer;
    } else {
        *out = r->last;
    }
    r->good_until = keep ? asked + r->keep_us : 0;
    (void)pthread_mutex_unlock(&r->lock);
}
