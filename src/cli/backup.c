/* log backup|restore, and long work at a server, which is asked how far it is. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/must.h"
#include "base/rfc3339.h"
#include "cli/cli_int.h"
#include "env/env_real.h"
#include "log/backup.h"
#include "log/index.h"
#include "log/log.h"

#define POLL_MS 100
#define RATE_MAX 1000000

void
clii_backup_json(struct buf *out, const struct log_backup_report *r)
{
    const struct {
        const char *name;
        uint64_t    value;
    } numbers[] = {{"end", r->end.v},
                   {"segments", r->segments},
                   {"bytes", r->bytes},
                   {"copied_segments", r->copied_segments},
                   {"copied_bytes", r->copied_bytes},
                   {"commits", r->commits},
                   {"events", r->events}};
    struct json_out o;
    char            id[ID_TEXT_LEN + 1], time[TIME_TEXT_MAX];

    id_format(&r->log_id, id);
    time_format(r->time_us, time);
    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "log");
    json_out_str(&o, id);
    json_out_key(&o, "committed");
    json_out_str(&o, r->time_us == 0 ? NULL : time);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        json_out_key(&o, numbers[i].name);
        json_out_u64(&o, numbers[i].value);
    }
    json_out_object_end(&o);
}

/* at a server */

static int
look(struct cli *c, const char *path, struct buf *body, struct json_field *f, struct err *err)
{
    static const char *const names[] = {"state", "done", "all", "result", "error", "message"};
    int                      rc;

    for (size_t i = 0; i < 6; i++)
        f[i] = (struct json_field){.name = names[i], .required = i < 3};
    TRY(clii_request(c, "GET", path, (struct slice){0}, body, err));
    TRY(json_pick(buf_slice(body), f, 6, JSON_PICK_ANY, err));
out:
    return rc;
}

/* The error that it ended with over there. */
static int
job_error(struct json_field *f, struct err *err)
{
    struct buf text = {0}, name = {0};
    int        code = E_REMOTE;

    if (f[5].value.data != NULL)
        (void)json_string_decode(f[5].value, &text, NULL);
    if (f[4].value.data != NULL)
        (void)json_string_decode(f[4].value, &name, NULL);
    for (int i = 1; i < E_COUNT; i++)
        if (slice_is(buf_slice(&name), err_name(i)))
            code = i;
    (void)err_set(err, __FILE__, __LINE__, code, ERR_DATA, "%.*s", SLICE_FMT(buf_slice(&text)));
    buf_fini(&text);
    buf_fini(&name);
    return code;
}

int
clii_job(struct cli *c, const char *name, struct slice body, struct cli_bar *bar, struct buf *out,
         struct err *err)
{
    struct timespec   pause = {.tv_nsec = POLL_MS * 1000000L};
    struct json_field f[6];
    struct buf        answer = {0};
    char              path[64];
    uint64_t          done, all;
    int               rc;

    (void)snprintf(path, sizeof path, "/v1/%s", name);
    TRY(clii_request(c, "POST", path, body, &answer, err));
    for (;;) {
        TRY(look(c, path, &answer, f, err));
        if (json_uint64(f[1].value, &done) && json_uint64(f[2].value, &all))
            clii_bar(bar, done, all);
        if (!slice_is(f[0].value, "\"running\""))
            break;
        (void)nanosleep(&pause, NULL);
        rc = clii_go_on(err);
        if (rc != 0) {
            err_prefix(err, "the server goes on with it (DELETE %s stops it)", path);
            goto out;
        }
    }
    if (f[3].value.data != NULL)
        buf_add_slice(out, f[3].value);
    if (!slice_is(f[0].value, "\"done\""))
        rc = job_error(f, err);
out:
    buf_fini(&answer);
    return rc;
}

/* A folder on the server's machine is named from its root. */
static int
absolute(const char *dir, char out[PATH_MAX], struct err *err)
{
    char here[PATH_MAX] = "";
    int  n;

    if (dir[0] != '/' && getcwd(here, sizeof here) == NULL)
        RETURN_ERR(err, E_IO, ERR_FATAL, "%s: the current folder has no path", dir);
    n = snprintf(out, PATH_MAX, "%s%s%s", here, here[0] != '\0' ? "/" : "", dir);
    if (n < 0 || n >= PATH_MAX)
        RETURN_ERR(err, E_INVALID, ERR_DATA, "the folder's path is too long");
    return 0;
}

static int
backup_remote(struct cli *c, uint64_t rate_mib, struct cli_bar *bar, struct buf *result,
              struct err *err)
{
    struct buf      body = {0};
    struct json_out o;
    char            dir[PATH_MAX];
    int             rc;

    TRY(absolute(c->args[0], dir, err));
    json_out_init(&o, &body);
    json_out_object(&o);
    json_out_key(&o, "dir");
    json_out_str(&o, dir);
    json_out_key(&o, "rate_mib");
    json_out_u64(&o, rate_mib);
    json_out_object_end(&o);
    TRY(clii_job(c, "backup", buf_slice(&body), bar, result, err));
out:
    buf_fini(&body);
    return rc;
}

static int
backup_folder(struct cli *c, uint64_t rate_mib, struct cli_bar *bar, struct buf *result,
              struct err *err)
{
    struct log_backup_report report;
    struct log_backup_conf   conf = {
          .dir = c->args[0], .rate = rate_mib << 20, .fn = clii_bar_step, .arg = bar};
    struct log *log = NULL;
    int         rc;

    c->opening = true;
    c->without_keys = true;
    TRY(clii_log_open(c, false, &log, err));
    c->opening = false;
    rc = log_backup(log, &conf, &report, err);
    if (clii_caught() != 0)
        rc = clii_go_on(err);
    if (rc == 0)
        clii_backup_json(result, &report);
out:
    clii_log_close(c, log);
    return rc;
}

static int
rate_of(struct cli *c, uint64_t *rate_mib, struct err *err)
{
    int rc = clii_number(c, OPT_RATE, 0, rate_mib, err);

    if (rc == 0 && c->opt[OPT_RATE] != NULL && (*rate_mib == 0 || *rate_mib > RATE_MAX))
        RETURN_ERR(err, E_USAGE, ERR_DATA, "--rate %s: must be 1 to %d", c->opt[OPT_RATE],
                   RATE_MAX);
    return rc;
}

int
clii_log_backup(struct cli *c, struct err *err)
{
    struct buf     result = {0};
    struct cli_bar bar;
    uint64_t       rate_mib;
    int            rc;

    TRY(rate_of(c, &rate_mib, err));
    if (c->args[0][0] == '\0')
        FAIL(err, E_USAGE, ERR_DATA, "log backup: the folder's name is empty");
    clii_bar_init(&bar, c, "backup");
    if (clii_server(c) != NULL)
        TRY(backup_remote(c, rate_mib, &bar, &result, err));
    else
        TRY(backup_folder(c, rate_mib, &bar, &result, err));
    clii_put_result(c, &result);
out:
    clii_progress_end(c);
    buf_fini(&result);
    return rc;
}

int
clii_log_restore(struct cli *c, struct err *err)
{
    struct log_conf          log_conf = {.index = &log_index_lmdb};
    struct log_backup_report report;
    struct log_restore_conf  conf = {.from = c->args[0], .log = &log_conf, .fn = clii_bar_step};
    struct buf               result = {0};
    struct cli_bar           bar;
    uint64_t                 rate_mib;
    int                      rc;

    TRY(clii_need_folder(c, err));
    TRY(rate_of(c, &rate_mib, err));
    conf.rate = rate_mib << 20;
    conf.to = c->opt[OPT_VERIFY_ONLY] != NULL ? NULL : clii_data(c);
    conf.arg = &bar;
    clii_bar_init(&bar, c, conf.to == NULL ? "verify" : "restore");
    rc = log_restore(env_real(), &conf, &report, err);
    if (clii_caught() != 0)
        rc = clii_go_on(err);
    if (rc != 0)
        goto out;
    clii_backup_json(&result, &report);
    clii_put_result(c, &result);
out:
    clii_progress_end(c);
    buf_fini(&result);
    return rc;
}
