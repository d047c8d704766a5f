/*
 * The source `mariadb`. Nothing is kept at the server and nothing outside of
 * the checkpoint: an instance that is abandoned at any point is replaced by a
 * new one that starts from the last durable checkpoint. The server keeps its
 * binary log for as long as it likes; a gap is named, never passed over.
 */
#include "source/mariadb/mariadb.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/json.h"
#include "source/mariadb/mariadb_int.h"

#define BATCH_BYTES_MAX ((size_t)1 << 30)
#define SILENCE_US UINT64_C(15000000) /* without a heartbeat: the connection is dead */
#define KEEP_US UINT64_C(1000000)     /* between checkpoints that only say a position */
#define BUSY_US UINT64_C(500000)      /* a poll that found only foreign events ends then */
#define RETRY_MS 20
#define REST_MS 1000
#define BYTES_XACT_SOFT ((size_t)24 << 20) /* a part of a transaction ends behind this */

static const char *const tls_values[] = {"off", "on", "verify", NULL};
static const char *const image_values[] = {"full", "any", NULL};
static const char *const cascade_values[] = {"refuse", "ignore", NULL};

static const struct conf_type name_type = {.kind = CONF_STRING, .min = 1, .max = 64};

static const struct conf_field table_fields[] = {
    {.name = "name",
     .type = {.kind = CONF_STRING, .min = 1, .max = 130},
     .required = true,
     .doc = "the table, or DATABASE.TABLE"},
    {.name = "key",
     .type = {.kind = CONF_LIST, .of = &name_type, .min = 1, .max = MARIADBI_KEY_MAX},
     .doc = "columns of a UNIQUE NOT NULL key to use instead of the primary key"},
    {0},
};

static const struct conf_type table_type = {.kind = CONF_OBJECT, .fields = table_fields};

static const struct conf_type host_type = {.kind = CONF_STRING, .min = 1, .max = 255};

static const struct conf_field fields[] = {
    {.name = "host",
     .type = {.kind = CONF_STRING, .min = 1, .max = 255},
     .preset = "127.0.0.1",
     .doc = "the server"},
    {.name = "hosts",
     .type = {.kind = CONF_LIST, .of = &host_type, .min = 1, .max = 32},
     .doc = "HOST or HOST:PORT of more servers with the same GTIDs, tried in turn"},
    {.name = "port",
     .type = {.kind = CONF_INT, .min = 1, .max = 65535},
     .preset = "3306",
     .doc = "its port"},
    {.name = "socket",
     .type = {.kind = CONF_PATH},
     .doc = "a Unix socket instead of host and port"},
    {.name = "user",
     .type = {.kind = CONF_STRING, .min = 1, .max = 128},
     .required = true,
     .doc = "needs REPLICATION SLAVE, BINLOG MONITOR, and SELECT on the tables"},
    {.name = "password", .type = {.kind = CONF_SECRET}, .doc = "the user's password"},
    {.name = "database",
     .type = {.kind = CONF_STRING, .min = 1, .max = 64},
     .required = true,
     .doc = "where the tables are that are named without one"},
    {.name = "tls",
     .type = {.kind = CONF_ENUM, .values = tls_values},
     .preset = "off",
     .doc = "on: encrypted; verify: and the server's certificate and name are checked"},
    {.name = "ca_file",
     .type = {.kind = CONF_PATH},
     .doc = "certificates to trust instead of the system's"},
    {.name = "tables",
     .type = {.kind = CONF_LIST, .of = &table_type, .min = 1, .max = MARIADBI_TABLES_MAX},
     .required = true,
     .doc = "which tables to capture"},
    {.name = "snapshot",
     .type = {.kind = CONF_BOOL},
     .preset = "true",
     .doc = "whether to read the rows that are there already"},
    {.name = "snapshot_rows",
     .type = {.kind = CONF_INT, .min = 1, .max = 100000},
     .preset = "5000",
     .doc = "rows of a snapshot that are read at once"},
    {.name = "server_id",
     .type = {.kind = CONF_INT, .min = 1, .max = 4294967295},
     .doc = "among the server's replicas; preset: made of the source's and the host's name"},
    {.name = "images",
     .type = {.kind = CONF_ENUM, .values = image_values},
     .preset = "full",
     .doc = "any: rows that are logged in part (MINIMAL, NOBLOB) are taken as they are"},
    {.name = "cascades",
     .type = {.kind = CONF_ENUM, .values = cascade_values},
     .preset = "refuse",
     .doc = "ignore: take tables whose foreign keys change rows, which the server does not log"},
    {.name = "restart",
     .type = {.kind = CONF_STRING, .max = 60, .chars = "a-zA-Z0-9_.-"},
     .preset = "",
     .doc = "another text than before: start over from now, with a snapshot"},
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

static struct my_source *
mine(struct source *s)
{
    return (struct my_source *)s;
}

/* The same for the same source on the same machine. */
static uint32_t
own_server_id(const struct my_source *s)
{
    char        host[256] = "";
    uint32_t    h = 2166136261u;
    const char *parts[] = {s->base.instance, host, s->database};

    (void)gethostname(host, sizeof host - 1);
    for (size_t i = 0; i < 3; i++) {
        for (const char *p = parts[i]; *p != '\0'; p++)
            h = (h ^ (uint8_t)*p) * 16777619u;
    }
    return 0x40000000u | (h & 0x3fffffffu);
}

static int
take_want(struct my_source *s, const struct conf *c, struct my_want *w, struct err *err)
{
    const char        *name = conf_str(c, "name"), *dot = strchr(name, '.');
    const struct conf *keys = conf_child(c, "key"), *k;

    w->db = dot == NULL ? strdup(s->database) : strndup(name, (size_t)(dot - name));
    w->name = strdup(dot == NULL ? name : dot + 1);
    w->table = w->db != NULL && strcmp(w->db, s->database) == 0
                   ? strdup(dot == NULL ? name : dot + 1)
                   : strdup(name);
    w->key = calloc(conf_count(keys) + 1, sizeof w->key[0]);
    if (w->db == NULL || w->name == NULL || w->table == NULL || w->key == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (k = conf_first(keys); k != NULL; k = conf_next(k))
        w->key[w->key_count++] = conf_text(k);
    for (const struct my_want *o = s->wants; o < w; o++) {
        if (strcasecmp(o->table, w->table) == 0)
            return conf_fail(c, err, "table %s is named twice", w->table);
    }
    return 0;
}

/* HOST, HOST:PORT or [HOST]:PORT */
static int
take_host(struct my_source *s, const struct conf *c, unsigned preset, struct err *err)
{
    struct my_host *h = &s->hosts[s->host_count++];
    const char     *text = conf_text(c), *colon = strrchr(text, ':'), *from = text, *end;
    char           *rest = NULL;
    unsigned long   port = preset;

    if (text[0] == '[' && strchr(text, ']') == NULL)
        return conf_fail(c, err, "is no HOST, HOST:PORT or [HOST]:PORT");
    /* More than one colon without brackets: an address of IPv6. */
    if (text[0] != '[' && colon != NULL && strchr(text, ':') != colon)
        colon = NULL;
    if (text[0] == '[' && colon != NULL && colon < strchr(text, ']'))
        colon = NULL;
    if (colon != NULL)
        port = strtoul(colon + 1, &rest, 10);
    if (colon != NULL && (colon[1] == '\0' || *rest != '\0' || port == 0 || port > 65535))
        return conf_fail(c, err, "has no port from 1 to 65535 behind its colon");
    end = text[0] == '[' ? strchr(text, ']') : colon != NULL ? colon : text + strlen(text);
    from += text[0] == '[';
    h->name = strndup(from, (size_t)(end - from));
    h->port = (unsigned)port;
    return h->name == NULL ? err_set(err, __FILE__, __LINE__, E_NOMEM, ERR_RETRY, "out of memory")
                           : 0;
}

static int
take_hosts(struct my_source *s, const struct conf *conf, struct err *err)
{
    const struct conf *more = conf_child(conf, "hosts");
    unsigned           port = (unsigned)conf_int(conf, "port");
    int                rc = 0;

    s->hosts = calloc(conf_count(more) + 1, sizeof s->hosts[0]);
    if (s->hosts == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    s->hosts[0] = (struct my_host){strdup(conf_str(conf, "host")), port};
    s->host_count = 1;
    if (s->hosts[0].name == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (const struct conf *c = conf_first(more); c != NULL; c = conf_next(c))
        TRY(take_host(s, c, port, err));
out:
    return rc;
}

static int
take_conf(struct my_source *s, const struct conf *conf, struct err *err)
{
    const struct conf *tables = conf_child(conf, "tables"), *c;
    int                rc = 0;

    TRY(take_hosts(s, conf, err));
    s->socket = conf_str(conf, "socket");
    s->user = conf_str(conf, "user");
    s->password = conf_str(conf, "password");
    s->database = conf_str(conf, "database");
    s->ca_file = conf_str(conf, "ca_file");
    s->restart = conf_str(conf, "restart");
    s->tls = conf_enum(conf, "tls");
    s->snapshot = conf_bool(conf, "snapshot");
    s->chunk_rows = (uint32_t)conf_int(conf, "snapshot_rows");
    s->any_images = conf_enum(conf, "images") == 1;
    s->any_cascades = conf_enum(conf, "cascades") == 1;
    s->server_id =
        conf_has(conf, "server_id") ? (uint32_t)conf_int(conf, "server_id") : own_server_id(s);
    s->wants = calloc(conf_count(tables), sizeof s->wants[0]);
    s->emptied = calloc(conf_count(tables) + 1, sizeof s->emptied[0]);
    if (s->wants == NULL || s->emptied == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    for (c = conf_first(tables); c != NULL; c = conf_next(c))
        TRY(take_want(s, c, &s->wants[s->want_count++], err));
    TRY(mariadbi_place_init(&s->place, s->want_count, err));
    TRY(mariadbi_place_init(&s->next, s->want_count, err));
out:
    return rc;
}

static void
close_source(struct source *base)
{
    struct my_source *s = mine(base);

    mariadbi_drop(s);
    for (uint32_t i = 0; i < s->want_count; i++) {
        mariadbi_want_forget(&s->wants[i]);
        free(s->wants[i].db);
        free(s->wants[i].name);
        free(s->wants[i].table);
        free(s->wants[i].key);
    }
    free(s->wants);
    for (uint32_t i = 0; i < s->host_count; i++)
        free(s->hosts[i].name);
    free(s->hosts);
    free(s->emptied);
    buf_fini(&s->shape);
    buf_fini(&s->text);
    free(s->changes);
    free(s->drafts);
    free(s->cells[0]);
    free(s->cells[1]);
    free(s->chunk.rows);
    buf_fini(&s->chunk.bytes);
    buf_fini(&s->chunk.position);
    buf_fini(&s->chunk.last_key);
    buf_fini(&s->chunk.asked);
    buf_fini(&s->xact_name);
    buf_fini(&s->gtid_text);
    mariadbi_place_fini(&s->place);
    mariadbi_place_fini(&s->next);
    buf_fini(&s->unpacked);
    buf_fini(&s->scratch);
    buf_fini(&s->bytes);
    buf_fini(&s->checkpoint);
}

/* Does not connect: a server that is away is tried again by start and poll. */
static int
open_source(struct source *base, const struct conf *conf, struct err *err)
{
    struct my_source *s = mine(base);
    int               rc;

    buf_init(&s->bytes, BATCH_BYTES_MAX);
    rc = take_conf(s, conf, err);
    if (rc != 0)
        close_source(base);
    return rc;
}

static int
check(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    struct my_source *s = mine(base);
    int               rc = mariadbi_look(s, say, arg, err);

    mariadbi_disconnect(&s->query);
    return rc;
}

/* All that can be set while the server runs, and only where it is not set yet. */
static int
prepare(struct source *base, bool dry_run, finding_fn *say, void *arg, struct err *err)
{
    struct my_source *s = mine(base);
    MYSQL_RES        *r = NULL;
    MYSQL_ROW         row;
    bool              full;
    int               rc;

    TRY(mariadbi_need_query(s, err));
    TRY(mariadbi_ask(s, s->query, &r, err, "SELECT @@global.binlog_row_metadata = 'FULL'"));
    row = mysql_fetch_row(r);
    full = row != NULL && row[0] != NULL && row[0][0] == '1';
    if (!full && dry_run)
        say(arg, FINDING_OK, "would run SET GLOBAL binlog_row_metadata = FULL");
    if (!full && !dry_run) {
        TRY(mariadbi_run(s, s->query, err, "SET GLOBAL binlog_row_metadata = FULL"));
        say(arg, FINDING_WARN,
            "binlog_row_metadata is FULL until the server restarts: put it into its configuration");
    }
    TRY(mariadbi_look(s, say, arg, err));
out:
    mysql_free_result(r);
    mariadbi_disconnect(&s->query);
    return rc;
}

static int
unprepare(struct source *base, finding_fn *say, void *arg, struct err *err)
{
    say(arg, FINDING_OK, "nothing is kept at the server");
    return 0;
}

/* start */

struct first_missing {
    struct my_source *s;
    struct err       *err;
    bool              found;
};

static void
note_missing(void *arg, enum finding_level level, const char *text)
{
    struct first_missing *m = arg;

    if (level != FINDING_MISSING || m->found)
        return;
    m->found = true;
    (void)err_set(m->err, __FILE__, __LINE__, E_STATE, ERR_FATAL, "source %s: %s",
                  m->s->base.instance, text);
}

static int
look(struct my_source *s, struct err *err)
{
    struct err           why;
    struct first_missing m = {s, &why, false};
    int                  rc = mariadbi_look(s, note_missing, &m, err);

    if (rc == 0 && m.found) {
        err_copy(err, &why);
        rc = why.code;
    }
    s->looked = rc == 0;
    return rc;
}

int
mariadbi_ask_position(struct my_source *s, struct my_gtid *out, uint32_t *count, struct err *err)
{
    MYSQL_RES *r = NULL;
    MYSQL_ROW  row;
    int        rc;

    TRY(mariadbi_need_query(s, err));
    TRY(mariadbi_ask(s, s->query, &r, err, "SELECT @@global.gtid_binlog_pos"));
    row = mysql_fetch_row(r);
    TRY(mariadbi_gtids_read(slice_str(row == NULL || row[0] == NULL ? "" : row[0]), out, count,
                            err));
out:
    mysql_free_result(r);
    return rc;
}

static int
start(struct source *base, struct slice checkpoint, struct err *err)
{
    struct my_source *s = mine(base);
    bool              anew = checkpoint.len == 0;
    int               rc;

    mariadbi_drop(s);
    mariadbi_place_fini(&s->place);
    TRY(mariadbi_place_init(&s->place, s->want_count, err));
    if (!anew)
        TRY(mariadbi_place_read(s, checkpoint, &anew, err));
    TRY(look(s, err));
    if (anew)
        TRY(mariadbi_ask_position(s, s->place.gtids, &s->place.gtid_count, err));
    /* Begun anew: what was captured before is compared with what is there. */
    if (anew && checkpoint.len > 0)
        mariadbi_place_all_again(s, &s->place);
    s->kept_us = 0;
out:
    if (rc != 0)
        mariadbi_drop(s);
    return rc;
}

/* poll */

static int
make_room(struct my_source *s, uint32_t max, struct err *err)
{
    if (s->room >= max)
        return 0;
    free(s->changes);
    free(s->drafts);
    s->room = 0;
    s->changes = calloc(max, sizeof s->changes[0]);
    s->drafts = calloc(max, sizeof s->drafts[0]);
    if (s->changes == NULL || s->drafts == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    s->room = max;
    return 0;
}

static int
connect_both(struct my_source *s, struct err *err)
{
    int rc = 0;

    if (s->stream != NULL)
        return 0;
    /* Another server may have answered, or the same one with other settings. */
    if (!s->looked || s->query == NULL)
        TRY(look(s, err));
    TRY(mariadbi_stream_open(s, err));
out:
    return rc;
}

static int
still_alive(struct my_source *s, struct err *err)
{
    uint64_t now = s->base.env->ops->mono_us(s->base.env);

    if (now - s->heard_us > SILENCE_US)
        RETURN_ERR(err, E_TIMEOUT, ERR_RETRY,
                   "source %s: no heartbeat of the server for %" PRIu64 " s", s->base.instance,
                   (now - s->heard_us) / 1000000);
    return 0;
}

/* The stream has nothing now: whether that is all there is, and a wait for more. *on: there is. */
static int
at_rest(struct my_source *s, uint64_t until, bool *on, bool *caught_up, struct err *err)
{
    uint64_t now;
    int      rc;

    TRY(mariadbi_ask_position(s, s->target, &s->target_count, err));
    *caught_up =
        !s->in_group && !s->chunk.open && mariadbi_snapshot_due(s) == s->want_count &&
        mariadbi_gtids_reach(s->next.gtids, s->next.gtid_count, s->target, s->target_count);
    now = s->base.env->ops->mono_us(s->base.env);
    *on = mariadbi_stream_ready(s, now < until ? (int)((until - now) / 1000) + 1 : 0);
    if (*on)
        *caught_up = false;
    else
        TRY(still_alive(s, err));
out:
    return rc;
}

/* A chunk of the snapshot where one is due; *wait: the tables do not show the stream's place yet.
 */
static int
read_chunk(struct my_source *s, bool *wait, struct err *err)
{
    int rc = 0;

    *wait = false;
    if (s->in_group || s->chunk.open || mariadbi_snapshot_due(s) == s->want_count)
        return 0;
    TRY(mariadbi_snapshot_read(s, err));
    *wait = !s->chunk.open;
out:
    return rc;
}

/* With transactions, one that has begun is gathered to its end; the server sends it at once. */
static bool
rest_of_group(const struct my_source *s)
{
    return s->base.transactions && s->count > 0 && s->in_group;
}

static int
wait_for_rest(struct my_source *s, struct err *err)
{
    int rc = mariadbi_stream_ready(s, REST_MS) ? mariadbi_stream_take(s, err) : still_alive(s, err);

    return rc;
}

static int
gather(struct my_source *s, uint32_t max, uint32_t wait_ms, uint64_t until, bool *caught_up,
       struct err *err)
{
    bool on = true, wait;
    int  rc = 0;

    while (on && s->count < max &&
           s->bytes.len < (s->base.transactions ? BYTES_XACT_SOFT : MARIADBI_BYTES_SOFT)) {
        /* What is there by now is a whole one, or rows of a snapshot. */
        if (s->base.transactions && s->count > 0 && !s->in_group)
            break;
        if (mariadbi_snapshot_ripe(s)) {
            TRY(mariadbi_snapshot_give(s, max, err));
            continue;
        }
        if (mariadbi_stream_pending(s)) {
            TRY(mariadbi_stream_row(s, err));
            continue;
        }
        if (rest_of_group(s)) {
            TRY(wait_for_rest(s, err));
            continue;
        }
        if (s->base.env->ops->mono_us(s->base.env) > until + BUSY_US)
            break;
        TRY(read_chunk(s, &wait, err));
        if (mariadbi_snapshot_ripe(s))
            continue;
        if (wait)
            (void)mariadbi_stream_ready(s, RETRY_MS);
        if (!mariadbi_stream_ready(s, 0)) {
            if (s->count > 0 || wait_ms == 0)
                break;
            TRY(at_rest(s, until, &on, caught_up, err));
            continue;
        }
        TRY(mariadbi_stream_take(s, err));
    }
out:
    return rc;
}

static struct slice
text_of(const struct my_source *s, struct my_span span)
{
    return span.len == 0 ? slice_of(NULL, 0) : slice_of(s->bytes.data + span.at, span.len);
}

/* With transactions: which one the changes are of. */
static void
name_transaction(struct my_source *s, uint32_t part, struct source_batch *batch)
{
    if (!s->base.transactions || s->count == 0 || s->drafts[0].op == CHANGE_READ ||
        s->drafts[0].compare)
        return;
    buf_clear(&s->xact_name);
    mariadbi_gtids_write(&s->gtid, 1, &s->xact_name);
    batch->transaction = buf_slice(&s->xact_name);
    batch->part = part;
    batch->last = !s->in_group;
    if (!batch->last)
        s->place.parts = part + 1;
}

static int
hand_out(struct my_source *s, bool caught_up, struct source_batch *batch, struct err *err)
{
    uint64_t now = s->base.env->ops->mono_us(s->base.env);

    for (uint32_t i = 0; i < s->count; i++) {
        const struct my_draft *d = &s->drafts[i];

        s->changes[i] = (struct change){
            .op = d->op,
            .compare = d->compare,
            .time_us = d->time_us,
            .table = slice_str(s->wants[d->want].table),
            .key = text_of(s, d->key),
            .before = text_of(s, d->before),
            .after = text_of(s, d->after),
            .position = text_of(s, d->position),
        };
    }
    batch->changes = s->changes;
    batch->count = s->count;
    batch->caught_up = caught_up;
    /* A position alone is kept now and then, so that an idle table does not hold on to the past. */
    if (s->count == 0 && s->kept_us != 0 && now - s->kept_us < KEEP_US)
        return 0;
    s->kept_us = now;
    buf_clear(&s->checkpoint);
    mariadbi_place_write(s, &s->place, &s->checkpoint);
    if (s->checkpoint.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory");
    batch->checkpoint = buf_slice(&s->checkpoint);
    return 0;
}

static int
poll_source(struct source *base, uint32_t max, uint32_t wait_ms, struct source_batch *batch,
            struct err *err)
{
    struct my_source *s = mine(base);
    uint64_t          until = base->env->ops->mono_us(base->env) + wait_ms * UINT64_C(1000);
    bool              caught_up = false;
    uint32_t          part = s->place.parts;
    int               rc;

    max = max < 65536 ? max : 65536;
    s->count = 0;
    buf_clear(&s->bytes);
    TRY(make_room(s, max, err));
    TRY(connect_both(s, err));
    TRY(mariadbi_place_copy(&s->next, &s->place, s->want_count, err));
    TRY(gather(s, max, wait_ms, until, &caught_up, err));
    if (s->bytes.failed)
        FAIL(err, E_LIMIT, ERR_FATAL, "source %s: a row is too large", base->instance);
    TRY(mariadbi_place_copy(&s->place, &s->next, s->want_count, err));
    name_transaction(s, part, batch);
    TRY(hand_out(s, caught_up, batch, err));
out:
    /* What was gathered is gathered again, from the place that was handed out. */
    if (rc != 0)
        mariadbi_drop(s);
    return rc;
}

static int
confirm(struct source *base, struct slice checkpoint, struct err *err)
{
    return 0;
}

static int
status(struct source *base, struct buf *out, struct err *err)
{
    struct my_source *s = mine(base);
    struct buf        text = {0};
    struct json_out   o;
    uint32_t          due;
    int               rc = 0;

    mariadbi_gtids_write(s->place.gtids, s->place.gtid_count, &text);
    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "gtid");
    json_out_string(&o, buf_slice(&text));
    buf_clear(&text);
    mariadbi_gtids_write(s->target, s->target_count, &text);
    json_out_key(&o, "server_gtid");
    json_out_string(&o, buf_slice(&text));
    json_out_key(&o, "file");
    json_out_str(&o, s->place.file);
    json_out_key(&o, "position");
    json_out_u64(&o, s->place.position);
    json_out_key(&o, "event_time_us");
    json_out_i64(&o, s->time_us);
    json_out_key(&o, "host");
    json_out_str(&o, s->socket != NULL && s->host_at == 0 ? s->socket : s->hosts[s->host_at].name);
    json_out_key(&o, "port");
    json_out_u64(&o, s->hosts[s->host_at].port);
    json_out_key(&o, "connected");
    json_out_bool(&o, s->stream != NULL);
    json_out_key(&o, "snapshot");
    due = mariadbi_snapshot_due_of(s, &s->place);
    json_out_str(&o, due < s->want_count ? s->wants[due].table : s->snapshot ? "done" : "off");
    json_out_key(&o, "rows_read");
    json_out_u64(&o, s->rows_read);
    json_out_object_end(&o);
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
out:
    buf_fini(&text);
    return rc;
}

const struct source_ops source_mariadb_ops = {
    .name = "mariadb",
    .size = sizeof(struct my_source),
    .schema = &schema,
    .open = open_source,
    .close = close_source,
    .check = check,
    .prepare = prepare,
    .unprepare = unprepare,
    .start = start,
    .poll = poll_source,
    .confirm = confirm,
    .status = status,
    .again = mariadbi_again,
};
