/*
 * stream copy|rewrite|split|join|plan|audit|…: surgeries on a folder in this process, or at a
 * server that goes on without us.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/must.h"
#include "base/url.h"
#include "cli/cli_int.h"
#include "cli/engine_int.h"
#include "env/env_real.h"
#include "migrate/stream/stream.h"
#include "transform/transform.h"

#define POLL_MS 300

/* The folder's log; NULL: a server's. */
struct place {
    struct cli     *c;
    struct log     *log;
    struct surgery *surgery;
    char            name[STREAM_NAME_MAX + 1];
};

/* the spec, out of options */

static int
put_transform(const char *file, struct buf *out, struct err *err)
{
    const struct transform_opts opts = {.name = file, .read_file = enginei_read_file};
    struct transform           *t = NULL;
    struct buf                  text = {0};
    int                         rc;

    TRY(enginei_read_file(NULL, file, &text, err));
    TRY(transform_from_yaml(buf_slice(&text), &opts, &t, err));
    transform_put_json(t, out);
out:
    transform_free(t);
    buf_fini(&text);
    return rc;
}

int
clii_seconds(const struct cli *c, enum cli_opt opt, uint64_t *seconds, struct err *err)
{
    static const struct {
        char     unit;
        uint64_t s;
    } units[] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};
    const char *text = c->opt[opt];
    size_t      len = strlen(text);

    for (size_t i = 0; len > 1 && i < 4; i++) {
        if (text[len - 1] != units[i].unit || !json_uint64(slice_of(text, len - 1), seconds) ||
            *seconds > UINT32_MAX)
            continue;
        *seconds *= units[i].s;
        return 0;
    }
    RETURN_ERR(err, E_USAGE, ERR_DATA, "--%s %s: as in 30d, 12h, 90m or 45s",
               clii_options[opt].name, text);
}

/* A condition, in YAML as `when` of a rule. */
static int
put_where(const char *text, struct buf *out, struct err *err)
{
    const struct transform_opts opts = {.name = "--where"};
    struct transform           *t = NULL;
    struct buf                  rule = {0}, json = {0};
    struct json_iter            it;
    struct slice                rules, raw, when;
    int                         rc;

    buf_printf(&rule, "[{when: %s, drop: true}]", text);
    TRY(transform_from_yaml(buf_slice(&rule), &opts, &t, err));
    transform_put_json(t, &json);
    rules = buf_slice(&json);
    if (json_type(rules) == JSON_OBJECT)
        (void)json_get(rules, "rules", &rules);
    TRY(json_array_iter(&it, rules, err));
    TRY(json_iter_next(&it, NULL, &raw, err));
    if (!json_get(raw, "when", &when))
        FAIL(err, E_USAGE, ERR_DATA, "--where %s: is no condition", text);
    buf_add_slice(out, when);
out:
    transform_free(t);
    buf_fini(&rule);
    buf_fini(&json);
    return rc;
}

/* "NAME", "PREFIX*", and "CATEGORY-*". All of one kind. */
static int
put_select(struct json_out *o, const char *const *words, unsigned count, struct err *err)
{
    const char *key = NULL, *kind;

    for (unsigned i = 0; i < count; i++) {
        size_t len = strlen(words[i]);

        kind = len == 0 || words[i][len - 1] != '*'                     ? "streams"
               : len > 2 && strchr(words[i], '-') == words[i] + len - 2 ? "category"
                                                                        : "prefix";
        if (key != NULL && strcmp(key, kind) != 0)
            RETURN_ERR(err, E_USAGE, ERR_DATA,
                       "streams, categories (NAME-*) and prefixes (TEXT*) do not go together");
        if (key == NULL) {
            json_out_key(o, kind);
            json_out_array(o);
        }
        key = kind;
        len -= strcmp(kind, "category") == 0 ? 2 : strcmp(kind, "prefix") == 0 ? 1 : 0;
        json_out_string(o, slice_of(words[i], len));
    }
    json_out_array_end(o);
    return 0;
}

static int
build_spec(const struct cli *c, const char *kind, const char *const *words, unsigned count,
           struct buf *out, struct err *err)
{
    static const struct {
        enum cli_opt opt;
        const char  *key;
    } texts[] = {
        {OPT_TO, "to"}, {OPT_REASON, "reason"}, {OPT_MODE, "mode"}, {OPT_OLD, "old_writers"}};
    struct json_out o;
    struct buf      transform = {0};
    uint64_t        number;
    int             rc = 0;

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "kind");
    json_out_str(&o, kind);
    TRY(put_select(&o, words, count, err));
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (c->opt[texts[i].opt] == NULL)
            continue;
        json_out_key(&o, texts[i].key);
        json_out_str(&o, c->opt[texts[i].opt]);
    }
    if (c->opt[OPT_TRANSFORM] != NULL) {
        TRY(put_transform(c->opt[OPT_TRANSFORM], &transform, err));
        json_out_key(&o, "transform");
        json_out_raw(&o, buf_slice(&transform));
    }
    if (c->opt[OPT_WHERE] != NULL) {
        buf_clear(&transform);
        TRY(put_where(c->opt[OPT_WHERE], &transform, err));
        json_out_key(&o, "where");
        json_out_raw(&o, buf_slice(&transform));
    }
    if (c->opt[OPT_KEEP] != NULL) {
        TRY(clii_seconds(c, OPT_KEEP, &number, err));
        json_out_key(&o, "keep_s");
        json_out_u64(&o, number);
    }
    if (c->opt[OPT_P99] != NULL) {
        TRY(clii_number(c, OPT_P99, 0, &number, err));
        json_out_key(&o, "max_foreground_p99_ms");
        json_out_u64(&o, number);
    }
    if (c->opt[OPT_PACE] != NULL) {
        TRY(clii_number(c, OPT_PACE, 0, &number, err));
        json_out_key(&o, "max_events_per_s");
        json_out_u64(&o, number);
    }
    json_out_object_end(&o);
    if (out->failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    buf_fini(&transform);
    return rc;
}

static int
take_name(struct place *p, const char *name, const char *kind, struct err *err)
{
    int n;

    if (name != NULL)
        n = snprintf(p->name, sizeof p->name, "%s", name);
    else
        n = snprintf(p->name, sizeof p->name, "%s_%lld", kind,
                     (long long)env_real()->ops->wall_us(env_real()));
    if (n < 0 || (size_t)n >= sizeof p->name)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "a surgery's name has at most %d bytes",
                   STREAM_NAME_MAX);
    return 0;
}

/* where it is */

static int
open_place(struct place *p, bool write, struct err *err)
{
    struct cli *c = p->c;
    int         rc = 0;

    if (clii_server(c) != NULL)
        return 0;
    c->opening = true;
    if (!clii_has_log(c))
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s: no data folder is there; --data names another",
             clii_data(c));
    TRY(clii_log_open(c, write, &p->log, err));
    c->opening = false;
out:
    return rc;
}

static void
close_place(struct place *p)
{
    stream_close(p->surgery);
    clii_log_close(p->c, p->log);
}

static int
ask(struct place *p, const char *method, const char *more, struct slice body, struct buf *out,
    struct err *err)
{
    struct buf path = {0};
    int        rc;

    buf_add_str(&path, "/v1/surgeries");
    if (p->name[0] != '\0') {
        buf_add_byte(&path, '/');
        url_encode(&path, slice_str(p->name));
    }
    buf_add_str(&path, more);
    buf_add_byte(&path, '\0');
    rc = clii_request(p->c, method, (const char *)path.data, body, out, err);
    buf_fini(&path);
    return rc;
}

static int
look(struct place *p, struct buf *now, struct err *err)
{
    struct stream_status s;

    buf_clear(now);
    if (p->log == NULL)
        return ask(p, "GET", "", (struct slice){0}, now, err);
    stream_get_status(p->surgery, &s);
    stream_status_json(&s, now);
    return 0;
}

static uint64_t
number(const struct buf *now, const char *key)
{
    struct slice raw;
    uint64_t     n = 0;

    return json_get(buf_slice(now), key, &raw) && json_uint64(raw, &n) ? n : 0;
}

static bool
is_state(const struct buf *now, const char *name)
{
    struct slice raw;

    return json_get(buf_slice(now), "state", &raw) && raw.len == strlen(name) + 2 &&
           memcmp((const char *)raw.data + 1, name, raw.len - 2) == 0;
}

static void
say(struct cli *c, const struct buf *now)
{
    uint64_t     all = number(now, "all"), seen = number(now, "seen");
    struct slice left, staged;
    struct buf   text = {0};

    buf_printf(&text, "%llu of %llu streams, %llu events, %llu/s", (unsigned long long)seen,
               (unsigned long long)(all > seen ? all : seen),
               (unsigned long long)number(now, "events"),
               (unsigned long long)number(now, "events_per_s"));
    if (json_get(buf_slice(now), "staged", &staged) && !json_is_null(staged)) {
        struct buf one = {0};

        buf_add_slice(&one, staged);
        buf_printf(&text, ", %llu of %llu of a large one",
                   (unsigned long long)number(&one, "events"),
                   (unsigned long long)number(&one, "all"));
        buf_fini(&one);
    }
    if (json_get(buf_slice(now), "left_s", &left) && !json_is_null(left))
        buf_printf(&text, ", %.*s s left", SLICE_FMT(left));
    if (!text.failed)
        clii_progress(c, "%.*s", SLICE_FMT(buf_slice(&text)));
    buf_fini(&text);
}

/* A folder's surgery that is interrupted is paused; a server's goes on. */
static int
interrupted(struct place *p, struct err *err)
{
    int rc = clii_go_on(err);

    if (rc == 0)
        return 0;
    if (p->log != NULL && stream_pause(p->surgery, NULL) == 0)
        RETURN_ERR(err, E_INTERRUPTED, ERR_FATAL,
                   "interrupted: oxbow stream resume %s goes on with it", p->name);
    return rc;
}

static int
watch(struct place *p, struct buf *now, struct err *err)
{
    int rc = 0;

    for (;;) {
        TRY(look(p, now, err));
        if (!is_state(now, "RUNNING") && !is_state(now, "ROLLING_BACK") &&
            !is_state(now, "DROPPING") && !is_state(now, "CLOSING"))
            break;
        say(p->c, now);
        TRY(interrupted(p, err));
        if (p->log != NULL)
            stream_wait(p->surgery, POLL_MS * 1000);
        else
            (void)nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
out:
    clii_progress_end(p->c);
    return rc;
}

/* The result; what could not be moved is this command's failure. */
static int
tell(struct place *p, struct buf *now, struct err *err)
{
    uint64_t     parked = number(now, "parked");
    bool         failed = is_state(now, "FAILED");
    struct buf   text = {0}, said = {0};
    struct slice raw;
    int          rc = 0;

    buf_add_slice(&said, buf_slice(now));
    if (failed && json_get(buf_slice(now), "error", &raw) && !json_is_null(raw))
        TRY(json_string_decode(raw, &text, err));
    clii_put_result(p->c, now);
    if (failed)
        FAIL(err, E_STATE, ERR_FATAL, "%.*s", SLICE_FMT(buf_slice(&text)));
    if (parked > 0) {
        buf_clear(&text);
        if (json_get(buf_slice(&said), "parked_why", &raw) && !json_is_null(raw))
            TRY(json_string_decode(raw, &text, err));
        FAIL(err, E_REJECTED, ERR_DATA,
             "%llu streams were left as they are, the last one being %.*s: oxbow read "
             "'$surgery-%s-parked' --json has all the reasons",
             (unsigned long long)parked, SLICE_FMT(buf_slice(&text)), p->name);
    }
out:
    buf_fini(&text);
    buf_fini(&said);
    return rc;
}

/* commands */

static const char *
last_word(const struct cli *c)
{
    return strrchr(c->command->name, ' ') + 1;
}

int
clii_surgery_begin(struct cli *c, struct err *err)
{
    struct place p = {.c = c};
    const char  *kind = last_word(c);
    struct buf   spec = {0}, now = {0};
    int          rc = 0;

    TRY(take_name(&p, c->opt[OPT_NAME], kind, err));
    TRY(build_spec(c, kind, c->args, c->arg_count, &spec, err));
    TRY(stream_spec_check(slice_str(p.name), buf_slice(&spec), NULL, err));
    TRY(open_place(&p, true, err));
    if (p.log == NULL)
        TRY(ask(&p, "POST", "", buf_slice(&spec), &now, err));
    else
        TRY(stream_begin(env_real(), p.log, slice_str(p.name), buf_slice(&spec), &p.surgery, err));
    TRY(watch(&p, &now, err));
    rc = tell(&p, &now, err);
out:
    close_place(&p);
    buf_fini(&spec);
    buf_fini(&now);
    return rc;
}

/* A text without its quotes. */
static void
add_text(struct buf *out, struct slice raw)
{
    if (raw.len > 1 && json_type(raw) == JSON_STRING)
        raw = slice_of((const char *)raw.data + 1, raw.len - 2);
    clii_add_plain(out, raw);
}

/* One event of a sample, on a line. */
static void
put_sample_event(struct buf *out, struct slice event, const char *mark, const char *key)
{
    struct slice raw;

    buf_add_str(out, mark);
    if (json_get(event, key, &raw))
        add_text(out, raw);
    if (json_get(event, "type", &raw)) {
        buf_add_byte(out, ' ');
        add_text(out, raw);
    }
    if (json_get(event, "data", &raw)) {
        buf_add_byte(out, ' ');
        clii_add_plain(out, slice_of(raw.data, raw.len < 100 ? raw.len : 100));
    }
    buf_add_byte(out, '\n');
}

static void
put_sample(struct buf *out, struct slice sample)
{
    static const char *const parts[][3] = {{"before", "  ", "version"},
                                           {"after", "  → ", "stream"}};
    struct json_iter         it;
    struct slice             raw, event;

    buf_add_byte(out, '\n');
    if (json_get(sample, "stream", &raw))
        add_text(out, raw);
    buf_add_byte(out, '\n');
    for (int i = 0; i < 2; i++)
        if (json_get(sample, parts[i][0], &raw) && json_array_iter(&it, raw, NULL) == 0)
            while (json_iter_next(&it, NULL, &event, NULL) == 0)
                put_sample_event(out, event, parts[i][1], parts[i][2]);
}

/* On a terminal the samples come last, event by event. */
static void
put_plan(struct cli *c, struct buf *plan)
{
    struct json_iter it;
    struct slice     key, value, samples = {0};
    struct buf       rest = {0}, text = {0};

    if (clii_json(c) || !c->out_tty || json_object_iter(&it, buf_slice(plan), NULL) != 0) {
        clii_put_result(c, plan);
        return;
    }
    while (json_iter_next(&it, &key, &value, NULL) == 0) {
        if (json_key_is(key, slice_str("samples"))) {
            samples = value;
            continue;
        }
        buf_add_str(&rest, rest.len == 0 ? "{\"" : ",\"");
        buf_add_slice(&rest, key);
        buf_add_str(&rest, "\":");
        buf_add_slice(&rest, value);
    }
    buf_add_byte(&rest, '}');
    clii_put_result(c, &rest);
    if (samples.len > 0 && json_array_iter(&it, samples, NULL) == 0)
        while (json_iter_next(&it, NULL, &value, NULL) == 0)
            put_sample(&text, value);
    clii_put_buf(c, &text);
    buf_fini(&rest);
    buf_fini(&text);
}

int
clii_surgery_plan(struct cli *c, struct err *err)
{
    struct place p = {.c = c};
    struct buf   spec = {0}, out = {0}, more = {0};
    uint64_t     sample;
    int          rc = 0;

    TRY(take_name(&p, c->opt[OPT_NAME], "plan", err));
    TRY(clii_number(c, OPT_SAMPLE, 1000, &sample, err));
    if (c->opt[OPT_THEN] != NULL)
        buf_add_byte(&spec, '[');
    TRY(build_spec(c, c->args[0], c->args + 1, c->arg_count - 1, &spec, err));
    if (c->opt[OPT_THEN] != NULL) {
        buf_add_byte(&spec, ',');
        TRY(enginei_read_file(NULL, c->opt[OPT_THEN], &spec, err));
        buf_add_byte(&spec, ']');
    }
    TRY(open_place(&p, true, err));
    if (p.log == NULL) {
        buf_printf(&more, "/plan?sample=%llu", (unsigned long long)sample);
        buf_add_byte(&more, '\0');
        TRY(ask(&p, "POST", (const char *)more.data, buf_slice(&spec), &out, err));
    } else {
        TRY(stream_plan(env_real(), p.log, slice_str(p.name), buf_slice(&spec), sample, NULL, &out,
                        err));
    }
    put_plan(c, &out);
out:
    close_place(&p);
    buf_fini(&spec);
    buf_fini(&out);
    buf_fini(&more);
    return rc;
}

static int
open_surgery(struct place *p, struct err *err)
{
    int rc = 0;

    TRY(take_name(p, p->c->args[0], "", err));
    TRY(open_place(p, true, err));
    if (p->log != NULL)
        TRY(stream_open(env_real(), p->log, slice_str(p->name), &p->surgery, err));
out:
    return rc;
}

int
clii_surgery_audit(struct cli *c, struct err *err)
{
    struct place        p = {.c = c};
    struct stream_audit audit;
    struct buf          out = {0};
    struct slice        clean;
    int                 rc = 0;

    TRY(open_surgery(&p, err));
    if (p.log == NULL) {
        TRY(ask(&p, "POST", "/audit", slice_str(""), &out, err));
    } else {
        TRY(stream_audit_run(p.surgery, NULL, &audit, err));
        stream_audit_json(&audit, &out);
    }
    if (json_get(buf_slice(&out), "clean", &clean) && slice_is(clean, "false"))
        rc = err_set(err, __FILE__, __LINE__, E_DIVERGED, ERR_DATA,
                     "what is there is not what the originals make");
    clii_put_result(c, &out);
out:
    close_place(&p);
    buf_fini(&out);
    return rc;
}

static int
run_command(struct place *p, const char *word, struct err *err)
{
    if (strcmp(word, "resume") == 0) {
        struct stream_status s;

        stream_get_status(p->surgery, &s); /* what was cut off goes on by itself */
        return s.state == STREAM_RUNNING ? 0 : stream_resume(p->surgery, err);
    }
    if (strcmp(word, "pause") == 0)
        return stream_pause(p->surgery, err);
    if (strcmp(word, "cancel") == 0)
        return stream_cancel(p->surgery, err);
    if (strcmp(word, "rollback") == 0)
        return stream_rollback(p->surgery, err);
    if (strcmp(word, "unroute") == 0)
        return stream_end_routing(p->surgery, err);
    must(strcmp(word, "drop") == 0);
    return stream_drop(p->surgery, err);
}

int
clii_surgery_command(struct cli *c, struct err *err)
{
    struct place p = {.c = c};
    const char  *word = last_word(c);
    struct buf   now = {0}, more = {0};
    int          rc = 0;

    TRY(open_surgery(&p, err));
    if (p.log == NULL) {
        buf_printf(&more, "/%s", word);
        buf_add_byte(&more, '\0');
        TRY(ask(&p, "POST", (const char *)more.data, slice_str(""), &now, err));
    } else {
        TRY(run_command(&p, word, err));
    }
    TRY(watch(&p, &now, err));
    rc = tell(&p, &now, err);
out:
    close_place(&p);
    buf_fini(&now);
    buf_fini(&more);
    return rc;
}

/* As it is in the log: nothing goes on here meanwhile. */
int
clii_surgery_show(struct cli *c, struct err *err)
{
    struct place p = {.c = c};
    struct buf   now = {0};
    int          rc = 0;

    TRY(open_surgery(&p, err));
    TRY(look(&p, &now, err));
    while (now.len > 0 && now.data[now.len - 1] == '\n')
        now.len--;
    clii_put_result(c, &now);
out:
    close_place(&p);
    buf_fini(&now);
    return rc;
}

static int
list_one(void *arg, struct slice name, struct err *err)
{
    struct cli *c = arg;

    clii_put(c, name.data, name.len);
    clii_put(c, "\n", 1);
    return clii_flush(c, err);
}

int
clii_surgery_list(struct cli *c, struct err *err)
{
    struct place     p = {.c = c};
    struct buf       out = {0};
    struct json_iter it;
    struct slice     all, object;
    int              rc = 0;

    TRY(open_place(&p, true, err));
    if (p.log != NULL) {
        rc = stream_each(p.log, list_one, c, err);
        goto out;
    }
    TRY(ask(&p, "GET", "", (struct slice){0}, &out, err));
    if (!json_get(buf_slice(&out), "surgeries", &all))
        FAIL(err, E_REMOTE, ERR_DATA, "the server's answer is not one of Oxbow's");
    TRY(json_array_iter(&it, all, err));
    while ((rc = json_iter_next(&it, NULL, &object, err)) == 0) {
        clii_put(c, object.data, object.len);
        clii_put(c, "\n", 1);
    }
    if (rc == E_END)
        rc = 0;
out:
    close_place(&p);
    buf_fini(&out);
    return rc;
}
