/* log scavenge: on a folder in this process, or at a server that goes on without us. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/must.h"
#include "cli/cli_int.h"
#include "log/log.h"

#define POLL_MS 100
#define MIB (UINT64_C(1) << 20)
#define RATE_MAX UINT64_C(1000000)
#define PATH "/v1/scavenge"

/* The folder's log; NULL: a server's. */
struct place {
    struct cli *c;
    struct log *log;
};

static int
read_conf(struct cli *c, struct log_scavenge_conf *conf, struct err *err)
{
    uint64_t rate, share;
    int      rc = 0;

    TRY(clii_number(c, OPT_RATE, 0, &rate, err));
    TRY(clii_number(c, OPT_MIN_SHARE, 10, &share, err));
    if (share == 0 || share > 100)
        FAIL(err, E_USAGE, ERR_DATA, "--min-share: a number from 1 to 100");
    if (rate > RATE_MAX)
        FAIL(err, E_USAGE, ERR_DATA, "--rate: at most %llu MiB/s", (unsigned long long)RATE_MAX);
    *conf = (struct log_scavenge_conf){
        .rate = rate * MIB, .min_share = (uint32_t)share, .dry_run = c->opt[OPT_DRY_RUN] != NULL};
out:
    return rc;
}

static int
begin(struct place *p, const struct log_scavenge_conf *conf, struct buf *now, struct err *err)
{
    struct buf body = {0};
    int        rc;

    if (p->log != NULL)
        return log_scavenge_start(p->log, conf, err);
    buf_printf(&body, "{\"dry_run\":%s,\"rate\":%llu,\"min_share\":%u}",
               conf->dry_run ? "true" : "false", (unsigned long long)conf->rate, conf->min_share);
    rc = clii_request(p->c, "POST", PATH, buf_slice(&body), now, err);
    buf_fini(&body);
    return rc;
}

/* The status into `now`, as JSON. */
static int
look(struct place *p, struct buf *now, struct err *err)
{
    struct log_scavenge s;

    if (p->log == NULL)
        return clii_request(p->c, "GET", PATH, slice_of(NULL, 0), now, err);
    log_scavenge_status(p->log, &s);
    buf_clear(now);
    log_scavenge_json(&s, now);
    return 0;
}

static uint64_t
number(const struct buf *now, const char *key)
{
    struct slice raw;
    uint64_t     n = 0;

    if (!json_get(buf_slice(now), key, &raw) || !json_uint64(raw, &n))
        return 0;
    return n;
}

static bool
is_running(const struct buf *now)
{
    struct slice state;

    return json_get(buf_slice(now), "state", &state) && slice_is(state, "\"running\"");
}

static void
say(struct cli *c, const struct buf *now)
{
    enum { BAR = 24 };
    uint64_t all = number(now, "all_bytes"), done = number(now, "examined_bytes");
    char     bar[BAR + 1];
    size_t   full = all == 0 ? BAR : (size_t)((double)done / (double)all * BAR);

    for (size_t i = 0; i < BAR; i++)
        bar[i] = i < full ? '#' : '.';
    bar[BAR] = '\0';
    clii_progress(c, "[%s] %llu of %llu MiB looked at, %llu MiB freed, %llu MiB/s", bar,
                  (unsigned long long)(done / MIB), (unsigned long long)(all / MIB),
                  (unsigned long long)(number(now, "freed_bytes") / MIB),
                  (unsigned long long)(number(now, "bytes_per_s") / MIB));
}

static int
watch(struct place *p, struct buf *now, struct err *err)
{
    int rc = 0;

    for (;;) {
        TRY(look(p, now, err));
        if (!is_running(now))
            break;
        say(p->c, now);
        if (clii_caught() != 0 && p->log != NULL)
            log_scavenge_stop(p->log);
        else
            TRY(clii_go_on(err));
        (void)nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
    rc = clii_go_on(err);
out:
    clii_progress_end(p->c);
    return rc;
}

/* The result; a failed run is this command's failure too. */
static int
tell(struct cli *c, struct buf *now, struct err *err)
{
    struct buf   text = {0};
    struct slice state, error;
    bool failed = json_get(buf_slice(now), "state", &state) && slice_is(state, "\"failed\"");
    int  rc = 0;

    if (failed && json_get(buf_slice(now), "error", &error) && !json_is_null(error))
        TRY(json_string_decode(error, &text, err));
    while (now->len > 0 && now->data[now->len - 1] == '\n')
        now->len--;
    if (clii_json(c) || !c->out_tty) {
        buf_add_byte(now, '\n');
        clii_put_buf(c, now);
    } else {
        clii_put_table(c, buf_slice(now));
    }
    if (failed)
        FAIL(err, E_STATE, ERR_FATAL, "%.*s", SLICE_FMT(buf_slice(&text)));
out:
    buf_fini(&text);
    return rc;
}

int
clii_log_scavenge(struct cli *c, struct err *err)
{
    struct place             p = {.c = c};
    struct log_scavenge_conf conf;
    struct buf               now = {0};
    int                      rc = 0;

    TRY(read_conf(c, &conf, err));
    if (c->opt[OPT_STOP] != NULL && clii_server(c) == NULL)
        FAIL(err, E_USAGE, ERR_DATA, "--stop: only with --server");
    if (clii_server(c) == NULL) {
        c->opening = true;
        if (!clii_has_log(c))
            FAIL(err, E_NOTFOUND, ERR_DATA, "%s: no data folder is there; --data names another",
                 clii_data(c));
        TRY(clii_log_open(c, true, &p.log, err));
        c->opening = false;
    }
    if (c->opt[OPT_STOP] != NULL)
        TRY(clii_request(c, "DELETE", PATH, slice_of(NULL, 0), &now, err));
    else
        TRY(begin(&p, &conf, &now, err));
    TRY(watch(&p, &now, err));
    TRY(tell(c, &now, err));
out:
    buf_fini(&now);
    clii_log_close(c, p.log);
    return rc;
}
