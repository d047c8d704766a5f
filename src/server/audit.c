/*
 * What is kept of who did what, in the stream $audit: changes of users, what was administered, and
 * what was refused. Refusals come as fast as somebody likes: beyond some in a second they are only
 * counted, and the next one kept says how many.
 */
#include <arpa/inet.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "base/say.h"
#include "log/log.h"
#include "server/access_int.h"

#define STREAM "$audit"
#define KEPT_MAX (UINT64_C(1000000)) /* events of it that stay readable */
#define REFUSALS_MAX 50              /* at once … */
#define REFUSALS_PER_S 5             /* … and in a second */
#define WAITING_MAX 1000             /* on their way to the log */

struct audit {
    uint64_t at_ms, left, left_out;
    bool     bounded;
    unsigned waiting;
};

struct audit_event {
    struct message       message; /* first */
    struct server       *server;
    struct log_req       req;
    struct log_write     write;
    struct log_change    change;
    struct log_new_event event;
    struct buf           json;
};

void
serveri_audit_free(struct server *s)
{
    free(s->audit);
    s->audit = NULL;
}

static void
on_answer(struct message *m)
{
    struct audit_event *e = (struct audit_event *)m;
    struct server      *s = e->server;

    if (e->req.rc != 0)
        say(SAY_WARN, "an audit event was lost", "why", e->req.err.text, NULL);
    s->in_flight--;
    s->audit->waiting--;
    buf_fini(&e->json);
    free(e);
}

/* On the log's task. */
static void
on_done(struct log_req *req)
{
    struct audit_event *e = req->arg;

    serveri_post(e->server, &e->message);
}

/* False: it is only counted. */
static bool
has_room(struct server *s, bool refusal)
{
    struct audit *a = s->audit;
    uint64_t      now = serveri_now_ms(s), more;

    if (a == NULL) {
        a = s->audit = calloc(1, sizeof *a);
        if (a == NULL)
            return false;
        a->left = REFUSALS_MAX;
        a->at_ms = now;
    }
    more = (now - a->at_ms) * REFUSALS_PER_S / 1000;
    if (more != 0) {
        a->left = a->left + more > REFUSALS_MAX ? REFUSALS_MAX : a->left + more;
        a->at_ms = now;
    }
    if (a->waiting < WAITING_MAX && (!refusal || a->left > 0)) {
        a->left -= refusal;
        return true;
    }
    a->left_out++;
    return false;
}

static void
put_text(struct json_out *o, const char *key, struct slice text)
{
    if (text.len == 0)
        return;
    json_out_key(o, key);
    json_out_string(o, text);
}

void
serveri_audit(struct server *s, const char *type, const struct address *from, struct slice who,
              struct slice action, struct slice target)
{
    bool refusal = strcmp(type, "LoginFailed") == 0 || strcmp(type, "AccessDenied") == 0;
    struct audit_event *e;
    struct json_out     o;
    char                text[INET6_ADDRSTRLEN];

    if (s->conf.read_only || !has_room(s, refusal))
        return;
    e = calloc(1, sizeof *e);
    if (e == NULL)
        return;
    e->server = s;
    e->message.fn = on_answer;
    json_out_init(&o, &e->json);
    json_out_object(&o);
    put_text(&o, "user", who);
    if (from != NULL && inet_ntop(AF_INET6, from->b, text, sizeof text) != NULL)
        put_text(&o, "from", slice_str(strncmp(text, "::ffff:", 7) == 0 ? text + 7 : text));
    put_text(&o, "action", action);
    put_text(&o, "target", target);
    if (s->audit->left_out != 0) {
        json_out_key(&o, "left_out_before");
        json_out_u64(&o, s->audit->left_out);
        s->audit->left_out = 0;
    }
    json_out_object_end(&o);
    if (e->json.failed) {
        buf_fini(&e->json);
        free(e);
        return;
    }
    e->event = (struct log_new_event){
        .type = slice_str(type), .data = buf_slice(&e->json), .flags = LOG_JSON};
    e->write = (struct log_write){
        .stream = slice_str(STREAM), .expected = LOG_ANY, .events = &e->event, .count = 1};
    e->change = (struct log_change){.stream = slice_str(STREAM),
                                    .expected = LOG_ANY,
                                    .what = LOG_SET_LIMITS,
                                    .max_count = KEPT_MAX};
    e->req = (struct log_req){.writes = &e->write,
                              .write_count = 1,
                              .changes = &e->change,
                              .change_count = !s->audit->bounded,
                              .flags = LOG_SYSTEM,
                              .done = on_done,
                              .arg = e};
    s->audit->bounded = true;
    s->in_flight++;
    s->audit->waiting++;
    log_submit(s->log, &e->req);
}
