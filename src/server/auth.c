/*
 * Who asks: HTTP Basic and Bearer, over HTTP/1.1 and gRPC. A password takes a quarter of a second
 * to look at, which the thread pool does; what held is remembered for a while, by a hash that only
 * this process can make. Guessing is slowed down for each address.
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <strings.h>

#include "base/base64.h"
#include "base/must.h"
#include "server/access_int.h"

#define KEY 32
#define KEPT 1024u /* proofs that are remembered */
#define PASSWORD_MS (UINT64_C(5) * 60000)
#define TOKEN_MS 10000  /* it may expire meanwhile */
#define JOBS_MAX 64     /* passwords that wait to be looked at */
#define HEADER_MAX 2048 /* bytes of a proof */
#define FAILS_SETS 1024u
#define FAILS_WAYS 4u
#define FAILS_MAX 30  /* failures of an address at once … */
#define FAILS_MS 2000 /* … and another one each */

struct kept {
    uint8_t      key[KEY];
    struct user *who; /* NULL: none */
    uint64_t     until_ms;
};

struct fails {
    struct address from;
    uint64_t       at_ms; /* when `left` was counted; 0: nobody's */
    uint32_t       left;
};

struct auth {
    uint8_t          key[KEY];
    struct kept      kept[KEPT];
    struct fails     fails[FAILS_SETS][FAILS_WAYS];
    struct auth_job *jobs;
    unsigned         job_count;
};

struct auth_job {
    uv_work_t           work; /* first */
    struct server      *server;
    struct auth_job    *next;
    struct auth_waiter *waiters;
    struct address      from;
    uint8_t             key[KEY];
    struct user        *found;
    size_t              name_len, len;
    uint8_t             text[HEADER_MAX]; /* name, then the password */
};

static struct auth *
auth_of(struct server *s)
{
    if (s->auth == NULL) {
        s->auth = calloc(1, sizeof *s->auth);
        if (s->auth != NULL)
            s->env->ops->random(s->env, s->auth->key, KEY);
    }
    return s->auth;
}

void
serveri_auth_free(struct server *s)
{
    if (s->auth == NULL)
        return;
    must(s->auth->jobs == NULL);
    for (unsigned i = 0; i < KEPT; i++)
        user_put(s->auth->kept[i].who);
    OPENSSL_cleanse(s->auth->key, KEY);
    free(s->auth);
    s->auth = NULL;
}

/* What failed. */

static struct fails *
fails_of(struct auth *a, const struct address *from, uint64_t now)
{
    uint32_t      h = 2166136261u;
    struct fails *set, *oldest;

    for (size_t i = 0; i < sizeof from->b; i++)
        h = (h ^ from->b[i] ^ a->key[i]) * 16777619u;
    set = a->fails[(h ^ h >> 15) % FAILS_SETS];
    oldest = set;
    for (unsigned i = 0; i < FAILS_WAYS; i++) {
        if (set[i].at_ms != 0 && memcmp(&set[i].from, from, sizeof *from) == 0)
            return &set[i];
        if (set[i].at_ms < oldest->at_ms)
            oldest = &set[i];
    }
    *oldest = (struct fails){.from = *from, .at_ms = now, .left = FAILS_MAX};
    return oldest;
}

/* One try less; false: there is none. */
static bool
take_try(struct auth *a, const struct address *from, uint64_t now)
{
    struct fails *f = fails_of(a, from, now + 1);
    uint64_t      more = now < f->at_ms ? 0 : (now - f->at_ms) / FAILS_MS;

    if (more != 0) {
        f->left = more + f->left > FAILS_MAX ? FAILS_MAX : f->left + (uint32_t)more;
        f->at_ms = f->left == FAILS_MAX ? now + 1 : f->at_ms + more * FAILS_MS;
    }
    if (f->left == 0)
        return false;
    f->left--;
    return true;
}

static void
give_try_back(struct auth *a, const struct address *from, uint64_t now)
{
    struct fails *f = fails_of(a, from, now + 1);

    if (f->left < FAILS_MAX)
        f->left++;
}

/* What held. */

static bool
key_of(const struct auth *a, struct slice header, uint8_t out[KEY])
{
    unsigned len = KEY;

    return HMAC(EVP_sha256(), a->key, KEY, header.data, header.len, out, &len) != NULL;
}

static struct kept *
kept_of(struct auth *a, const uint8_t key[KEY])
{
    return &a->kept[((unsigned)key[0] << 8 | key[1]) % KEPT];
}

static void
keep(struct auth *a, const uint8_t key[KEY], struct user *who, uint64_t until)
{
    struct kept *k = kept_of(a, key);

    user_put(k->who);
    memcpy(k->key, key, KEY);
    k->who = user_hold(who);
    k->until_ms = until;
}

/* Looking. */

static bool
has_scheme(struct slice header, const char *scheme, struct slice *rest)
{
    size_t      n = strlen(scheme);
    const char *p = header.data;

    if (header.len <= n || strncasecmp(p, scheme, n) != 0 || p[n] != ' ')
        return false;
    while (n < header.len && p[n] == ' ')
        n++;
    *rest = slice_of(p + n, header.len - n);
    return true;
}

static void
on_work(uv_work_t *work)
{
    struct auth_job *job = (struct auth_job *)work;

    job->found = user_check_password(job->server->users, slice_of(job->text, job->name_len),
                                     slice_of(job->text + job->name_len, job->len - job->name_len));
}

static void
on_worked(uv_work_t *work, int status)
{
    struct auth_job *job = (struct auth_job *)work, **link;
    struct server   *s = job->server;
    uint64_t         now = serveri_now_ms(s);

    for (link = &s->auth->jobs; *link != job;)
        link = &(*link)->next;
    *link = job->next;
    s->auth->job_count--;
    if (job->found != NULL) {
        give_try_back(s->auth, &job->from, now);
        keep(s->auth, job->key, job->found, now + PASSWORD_MS);
    } else {
        s->stats.logins_failed++;
        serveri_audit(s, "LoginFailed", &job->from, slice_of(job->text, job->name_len),
                      slice_str("password"), (struct slice){0});
    }
    while (job->waiters != NULL) {
        struct auth_waiter *w = job->waiters;

        job->waiters = w->next;
        w->done(w, job->found == NULL ? AUTH_BAD : AUTH_OK, user_hold(job->found));
    }
    user_put(job->found);
    OPENSSL_cleanse(job->text, sizeof job->text);
    free(job);
}

static enum auth_result
check_password(struct server *s, struct slice text, const uint8_t key[KEY],
               const struct address *from, struct auth_waiter *waiter)
{
    struct auth     *a = s->auth;
    struct auth_job *job;
    const uint8_t   *colon;

    for (job = a->jobs; job != NULL; job = job->next)
        if (memcmp(job->key, key, KEY) == 0)
            break;
    if (job != NULL) {
        waiter->next = job->waiters;
        job->waiters = waiter;
        return AUTH_LATER;
    }
    job = a->job_count == JOBS_MAX || text.len > sizeof job->text ? NULL : calloc(1, sizeof *job);
    if (job == NULL)
        return AUTH_BUSY;
    memcpy(job->text, text.data, text.len);
    colon = base64_decode(job->text, text.len, &job->len) ? memchr(job->text, ':', job->len) : NULL;
    if (colon == NULL || !take_try(a, from, serveri_now_ms(s))) {
        OPENSSL_cleanse(job->text, sizeof job->text);
        free(job);
        return colon == NULL ? AUTH_BAD : AUTH_OFTEN;
    }
    job->name_len = (size_t)(colon - job->text);
    job->len--; /* without the colon */
    memmove(job->text + job->name_len, colon + 1, job->len - job->name_len);
    job->server = s;
    job->from = *from;
    memcpy(job->key, key, KEY);
    job->waiters = waiter;
    waiter->next = NULL;
    job->next = a->jobs;
    a->jobs = job;
    a->job_count++;
    must(uv_queue_work(&s->loop, &job->work, on_work, on_worked) == 0);
    return AUTH_LATER;
}

static enum auth_result
check_token(struct server *s, struct slice token, const uint8_t key[KEY],
            const struct address *from, struct user **who)
{
    uint64_t now = serveri_now_ms(s);

    if (!take_try(s->auth, from, now))
        return AUTH_OFTEN;
    *who = user_check_token(s->users, token);
    if (*who == NULL) {
        s->stats.logins_failed++;
        serveri_audit(s, "LoginFailed", from, (struct slice){0}, slice_str("token"),
                      (struct slice){0});
        return AUTH_BAD;
    }
    give_try_back(s->auth, from, now);
    keep(s->auth, key, *who, now + TOKEN_MS);
    return AUTH_OK;
}

enum auth_result
serveri_auth(struct server *s, struct slice header, const struct address *from, struct user **who,
             struct auth_waiter *waiter)
{
    struct auth *a = auth_of(s);
    struct kept *k;
    struct slice rest;
    uint8_t      key[KEY];

    *who = NULL;
    if (header.len == 0)
        return AUTH_NONE;
    if (header.len > HEADER_MAX)
        return AUTH_BAD;
    if (a == NULL || !key_of(a, header, key))
        return AUTH_BUSY;
    k = kept_of(a, key);
    if (k->who != NULL && memcmp(k->key, key, KEY) == 0 && user_is_valid(k->who) &&
        serveri_now_ms(s) < k->until_ms) {
        *who = user_hold(k->who);
        return AUTH_OK;
    }
    if (has_scheme(header, "basic", &rest))
        return check_password(s, rest, key, from, waiter);
    if (has_scheme(header, "bearer", &rest))
        return check_token(s, rest, key, from, who);
    return AUTH_BAD;
}

/* A request. */

static bool
refuse(struct call *call, enum auth_result result)
{
    if (result == AUTH_OFTEN) {
        call->retry_after_s = FAILS_MS / 1000;
        call_refuse(call, 429, "too-many-failures", "too many failed logins from this address");
    } else if (result == AUTH_BUSY) {
        call_refuse(call, 503, "overloaded", "too many logins wait to be looked at");
    } else {
        call_refuse(call, 401, "unauthorized", "the name and password, or the token, do not hold");
    }
    return false;
}

static void
on_known(struct auth_waiter *w, enum auth_result result, struct user *who)
{
    struct conn *c = (struct conn *)((char *)w - offsetof(struct conn, waiter));

    if (c->state != CONN_CLOSED) {
        must(c->state == CONN_AUTH);
        c->state = c->before_auth;
        c->since_ms = serveri_now_ms(c->server);
        user_put(c->call.who);
        c->call.who = user_hold(who);
        if (result == AUTH_OK)
            serveri_call_go_on(&c->call);
        else
            (void)refuse(&c->call, result);
        if (c->state != CONN_CLOSED)
            serveri_conn_process(c);
    }
    user_put(who);
    serveri_conn_release(c);
}

bool
serveri_auth_call(struct call *call)
{
    struct conn     *c = call->conn;
    struct slice     header = {0};
    enum auth_result result;

    if (!serveri_access_on(c->server) || !call_header(call, "authorization", &header))
        return true;
    c->waiter.done = on_known;
    result = serveri_auth(c->server, header, &c->peer, &call->who, &c->waiter);
    if (result == AUTH_OK || result == AUTH_NONE)
        return true;
    if (result != AUTH_LATER)
        return refuse(call, result);
    c->users++;
    c->before_auth = c->state;
    c->state = CONN_AUTH;
    return false;
}
