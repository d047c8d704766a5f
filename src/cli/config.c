/* The configuration's schema, and its file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/conf.h"
#include "cli/cli_int.h"
#include "cli/engine_int.h"
#include "source/outbox.h"

static const struct conf_field scavenge_fields[] = {
    {.name = "every",
     .type = {.kind = CONF_DURATION, .min = 0, .max = INT64_C(366) * 86400 * 1000000},
     .preset = "0",
     .doc = "from one run's start to the next one's; 0: never"},
    {.name = "at",
     .type = {.kind = CONF_STRING, .min = 5, .max = 5, .chars = "0-9:"},
     .doc = "HH:MM in UTC: the time of day of a run, where `every` is whole days"},
    {.name = "rate",
     .type = {.kind = CONF_SIZE, .max = INT64_MAX},
     .preset = "0",
     .doc = "bytes in a second; 0: as the foreground allows"},
    {.name = "min_share",
     .type = {.kind = CONF_INT, .min = 1, .max = 100},
     .preset = "10",
     .doc = "percent of a segment that has to be freed"},
    {.name = "min_age",
     .type = {.kind = CONF_DURATION, .max = INT64_C(36600) * 86400 * 1000000},
     .preset = "0",
     .doc = "younger segments stay as they are"},
    {.name = NULL},
};

static const struct conf_field log_fields[] = {
    {.name = "segment_bytes",
     .type = {.kind = CONF_SIZE, .min = 2 << 20, .max = 1 << 30},
     .preset = "256MiB",
     .doc = "of one file of the log; fixed when the folder is made"},
    {.name = "commit_bytes_max",
     .type = {.kind = CONF_SIZE, .min = 1 << 20, .max = 1 << 30},
     .preset = "64MiB",
     .doc = "of one commit"},
    {.name = "free_bytes_min",
     .type = {.kind = CONF_SIZE, .min = 1, .max = INT64_MAX},
     .preset = "64MiB",
     .doc = "free disk below which appends are refused"},
    {.name = "sync_delay",
     .type = {.kind = CONF_DURATION, .max = 1000000},
     .preset = "0",
     .doc = "gathers appends this long into one sync; never less durable"},
    {.name = "scavenge",
     .type = {.kind = CONF_OBJECT, .fields = scavenge_fields},
     .preset = "{}",
     .doc = "when the disk of hidden events is given back"},
    {.name = NULL},
};

static const struct conf_field source_fields[] = {
    {.name = "category",
     .type = {.kind = CONF_STRING, .min = 1, .max = 100},
     .doc = "instead of the table's name, in the names of streams"},
    {.name = "batch",
     .type = {.kind = CONF_INT, .min = 1, .max = 10000},
     .preset = "500",
     .doc = "changes of one commit"},
    {.name = "outbox",
     .type = {.kind = CONF_OBJECT, .fields = source_outbox_fields},
     .doc = "a table whose rows are events in the application's own words"},
    {.name = "transactions",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "one transaction of the source is one commit; large ones in parts"},
    {.name = NULL},
};

static const struct conf_field event_fields[] = {
    {.name = "category", .type = {.kind = CONF_STRING, .min = 1}, .doc = "streams NAME-…"},
    {.name = "prefix", .type = {.kind = CONF_STRING, .min = 1}, .doc = "of the streams' names"},
    {.name = "type", .type = {.kind = CONF_STRING, .min = 1}, .doc = "of the events"},
    {.name = "when", .type = {.kind = CONF_ANY}, .doc = "a condition: docs/transforms.md"},
    {.name = NULL},
};

static const char *const moved_words[] = {"deliver", "skip", NULL};
static const char *const link_words[] = {"ignore", "resolve", "deliver", NULL};
static const char *const parked_words[] = {"hold", "pass", NULL};

static const struct conf_field sink_fields[] = {
    {.name = "events",
     .type = {.kind = CONF_OBJECT, .fields = event_fields},
     .preset = "{}",
     .doc = "which events it is given"},
    {.name = "from",
     .type = {.kind = CONF_STRING, .min = 1, .max = 40},
     .preset = "beginning",
     .doc = "where a first start begins: beginning, now, a position or a time"},
    {.name = "transform",
     .type = {.kind = CONF_ANY},
     .doc = "what it makes of each: rules, or a script, docs/transforms.md"},
    {.name = "moved",
     .type = {.kind = CONF_ENUM, .values = moved_words},
     .preset = "deliver",
     .doc = "copies of moved streams' events: skip those of events that it is given anyway"},
    {.name = "links",
     .type = {.kind = CONF_ENUM, .values = link_words},
     .preset = "ignore",
     .doc = "links: ignore them, resolve them to their events, or deliver them as they are"},
    {.name = "retry_min",
     .type = {.kind = CONF_DURATION, .min = 1000, .max = INT64_C(3600) * 1000000},
     .preset = "100ms",
     .doc = "before the second attempt; doubles with each, half of it random"},
    {.name = "retry_max",
     .type = {.kind = CONF_DURATION, .min = 1000, .max = INT64_C(86400) * 1000000},
     .preset = "30s",
     .doc = "between two attempts at most"},
    {.name = "attempts",
     .type = {.kind = CONF_INT, .min = 0, .max = 1000000},
     .preset = "0",
     .doc = "after which an event is parked; 0: any number"},
    {.name = "retry_for",
     .type = {.kind = CONF_DURATION, .max = INT64_C(366) * 86400 * 1000000},
     .preset = "0",
     .doc = "since the first attempt, after which an event is parked; 0: for ever"},
    {.name = "delay",
     .type = {.kind = CONF_DURATION, .max = INT64_C(366) * 86400 * 1000000},
     .preset = "0",
     .doc = "from an event's commit to its delivery at least"},
    {.name = "deliver_at",
     .type = {.kind = CONF_STRING, .min = 6, .max = 1024},
     .doc = "where an event has the time of its delivery: data.PATH or metadata.PATH"},
    {.name = "parked",
     .type = {.kind = CONF_ENUM, .values = parked_words},
     .preset = "hold",
     .doc = "what follows a parked event in its stream: hold it too, or let it pass"},
    {.name = NULL},
};

static const struct conf_field retention_fields[] = {
    {.name = "max_count",
     .type = {.kind = CONF_INT, .min = 1, .max = INT64_MAX},
     .doc = "events of a stream that stay readable"},
    {.name = "max_age",
     .type = {.kind = CONF_DURATION, .min = 1000000, .max = INT64_MAX},
     .doc = "how long an event stays readable"},
    {.name = NULL},
};

static const struct conf_field quota_fields[] = {
    {.name = "events_per_s",
     .type = {.kind = CONF_INT, .min = 1, .max = 1000000000},
     .doc = "events a second"},
    {.name = "bytes_per_s",
     .type = {.kind = CONF_SIZE, .min = 1, .max = INT64_C(1000000000000)},
     .doc = "bytes a second, of types, data and metadata"},
    {.name = NULL},
};

static const struct conf_type named_type = {.kind = CONF_STRING, .min = 1, .max = 255};

static const struct conf_field permission_fields[] = {
    {.name = "read",
     .type = {.kind = CONF_LIST, .of = &named_type, .max = 1000},
     .doc = "who may read its streams: users, groups, $admins, $ops, $all"},
    {.name = "write",
     .type = {.kind = CONF_LIST, .of = &named_type, .max = 1000},
     .doc = "who may append to them, and change them"},
    {.name = NULL},
};

static const char *const auth_words[] = {"auto", "on", "off", NULL};

static const struct conf_field limit_fields[] = {
    {.name = "connections",
     .type = {.kind = CONF_INT, .min = 1, .max = 1000000},
     .preset = "1024",
     .doc = "beyond it: 503"},
    {.name = "connections_per_address",
     .type = {.kind = CONF_INT, .max = 1000000},
     .preset = "0",
     .doc = "of one address, or one /64; 0: no bound"},
    {.name = "requests_per_s",
     .type = {.kind = CONF_INT, .max = 10000000},
     .preset = "0",
     .doc = "of one user, or of one address where nobody is known: beyond it 429; 0: no bound"},
    {.name = NULL},
};

static const struct conf_field tls_fields[] = {
    {.name = "cert",
     .type = {.kind = CONF_PATH, .min = 1, .max = 3000},
     .required = true,
     .doc = "the server's certificate in PEM, with those that vouch for it"},
    {.name = "key",
     .type = {.kind = CONF_PATH, .min = 1, .max = 3000},
     .required = true,
     .doc = "its private key in PEM"},
    {.name = "client_ca",
     .type = {.kind = CONF_PATH, .min = 1, .max = 3000},
     .doc = "only clients with a certificate that one of these vouches for"},
    {.name = NULL},
};

static const struct conf_field request_fields[] = {
    {.name = "log",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "a line for each request"},
    {.name = "slow",
     .type = {.kind = CONF_DURATION, .max = INT64_C(3600) * 1000000},
     .preset = "1s",
     .doc = "a line for each request that took so long; 0: none"},
    {.name = NULL},
};

static const struct conf_type  header_type = {.kind = CONF_SECRET, .min = 1, .max = 4000};
static const struct conf_field tracing_fields[] = {
    {.name = "endpoint",
     .type = {.kind = CONF_URL},
     .required = true,
     .doc = "of a collector that takes OTLP over HTTP: /v1/traces is put behind it"},
    {.name = "sample",
     .type = {.kind = CONF_STRING, .min = 1, .max = 20, .chars = "0-9."},
     .preset = "1",
     .doc =
         "share of the traces that begin here, from 0 to 1; those of callers are theirs to sample"},
    {.name = "service",
     .type = {.kind = CONF_STRING, .min = 1, .max = 255},
     .preset = "oxbow",
     .doc = "the name of the service in traces"},
    {.name = "headers",
     .type = {.kind = CONF_MAP, .max = 16, .of = &header_type, .chars = "A-Za-z0-9_-"},
     .preset = "{}",
     .doc = "fields of the requests to the collector"},
    {.name = "ca_file",
     .type = {.kind = CONF_PATH, .min = 1, .max = 3000},
     .doc = "certificates to trust instead of the system's"},
    {.name = NULL},
};

static const struct conf_field upcaster_fields[] = {
    {.name = "category",
     .type = {.kind = CONF_STRING, .min = 1, .max = 255},
     .doc = "only events of streams NAME-…"},
    {.name = "type",
     .type = {.kind = CONF_STRING, .min = 1, .max = 255},
     .doc = "only events of this type"},
    {.name = "transform",
     .type = {.kind = CONF_ANY},
     .required = true,
     .doc = "rules, or a script: docs/transforms.md"},
    {.name = NULL},
};

static const struct conf_type upcaster_type = {.kind = CONF_OBJECT, .fields = upcaster_fields};
static const struct conf_type retention_type = {.kind = CONF_OBJECT, .fields = retention_fields};
static const struct conf_type permission_type = {.kind = CONF_OBJECT, .fields = permission_fields};
static const struct conf_type quota_type = {.kind = CONF_OBJECT, .fields = quota_fields};
static const struct conf_type source_type = {
    .kind = CONF_DRIVER, .fields = source_fields, .family = "source"};
static const struct conf_type sink_type = {
    .kind = CONF_DRIVER, .fields = sink_fields, .family = "sink"};

#define NAMES "a-z0-9_-"

static const struct conf_field root_fields[] = {
    {.name = "data", .type = {.kind = CONF_PATH, .min = 1, .max = 3000}, .doc = "the data folder"},
    {.name = "listen",
     .type = {.kind = CONF_STRING, .min = 2, .max = 255},
     .preset = "127.0.0.1:2113",
     .doc = "HOST:PORT"},
    {.name = "insecure",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "listen where others can reach it, without TLS; users only once there are some"},
    {.name = "tls",
     .type = {.kind = CONF_OBJECT, .fields = tls_fields},
     .doc = "the port speaks TLS; read again on SIGHUP"},
    {.name = "auth",
     .type = {.kind = CONF_ENUM, .values = auth_words},
     .preset = "auto",
     .doc = "who has to say who he is: auto: where others can reach it, or once there is a user"},
    {.name = "permissions",
     .type = {.kind = CONF_MAP, .of = &permission_type, .max = 1000},
     .preset = "{}",
     .doc = "of categories: who may read and write their streams"},
    {.name = "tracing",
     .type = {.kind = CONF_OBJECT, .fields = tracing_fields},
     .doc = "where spans of appends and deliveries go"},
    {.name = "keys",
     .type = {.kind = CONF_PATH, .min = 1, .max = 3000},
     .doc = "the keystore of subjects; preset: keys in the data folder"},
    {.name = "keys_master",
     .type = {.kind = CONF_SECRET, .min = 64, .max = 64},
     .doc = "64 hexadecimal digits that wrap the keys of subjects"},
    {.name = "log", .type = {.kind = CONF_OBJECT, .fields = log_fields}, .preset = "{}"},
    {.name = "requests", .type = {.kind = CONF_OBJECT, .fields = request_fields}, .preset = "{}"},
    {.name = "limits", .type = {.kind = CONF_OBJECT, .fields = limit_fields}, .preset = "{}"},
    {.name = "retention",
     .type = {.kind = CONF_MAP, .of = &retention_type, .max = 1000},
     .preset = "{}",
     .doc = "of categories: what of their streams stays readable"},
    {.name = "quotas",
     .type = {.kind = CONF_MAP, .of = &quota_type, .max = 1000},
     .preset = "{}",
     .doc = "of categories: what may be appended in a second"},
    {.name = "upcasters",
     .type = {.kind = CONF_MAP, .of = &upcaster_type, .chars = NAMES, .max = 1000},
     .preset = "{}",
     .doc = "what readers' events go through, in this order"},
    {.name = "sources",
     .type = {.kind = CONF_MAP, .of = &source_type, .chars = NAMES, .max = 1000},
     .preset = "{}"},
    {.name = "sinks",
     .type = {.kind = CONF_MAP, .of = &sink_type, .chars = NAMES, .max = 1000},
     .preset = "{}"},
    {.name = "migrations",
     .type = {.kind = CONF_MAP, .of = &tracer_conf_type, .chars = "a-z0-9_", .max = 100},
     .preset = "{}"},
    {.name = NULL},
};

static const struct conf_type root_type = {.kind = CONF_OBJECT, .fields = root_fields};

static const char *
get_env(void *arg, const char *name)
{
    return getenv(name);
}

int
enginei_read_file(void *arg, const char *path, struct buf *out, struct err *err)
{
    FILE *file = fopen(path, "rbe");
    int   rc = 0;

    if (file == NULL)
        FAIL(err, err_of_errno(errno), ERR_FATAL, "%s: %s", path, strerror(errno));
    while (feof(file) == 0 && out->len <= CONF_FILE_MAX) {
        if (!buf_reserve(out, 65536))
            FAIL(err, E_NOMEM, ERR_RETRY, "%s: out of memory", path);
        out->len += fread(out->data + out->len, 1, 65536, file);
        if (ferror(file) != 0)
            FAIL(err, E_IO, ERR_FATAL, "%s: %s", path, strerror(errno));
    }
    if (out->len > CONF_FILE_MAX)
        FAIL(err, E_LIMIT, ERR_FATAL, "%s: is larger than 1 MiB", path);
out:
    if (file != NULL)
        (void)fclose(file);
    return rc;
}

/* What no schema can. */
static int
check_parts(const struct conf *root, struct err *err)
{
    int rc;

    TRY(enginei_scavenge_check(root, err));
    for (const struct conf *x = conf_first(conf_child(root, "sinks")); x != NULL; x = conf_next(x))
        TRY(enginei_sink_check(x, err));
    for (const struct conf *x = conf_first(conf_child(root, "sources")); x != NULL;
         x = conf_next(x))
        if (enginei_queue(conf_str(x, "type")) != NULL)
            TRY(enginei_queue_check(root, x, err));
out:
    return rc;
}

int
enginei_config_load(struct cli *c, const char *file, struct conf **out, struct err *err)
{
    struct conf_opts opts = {.file = file == NULL ? "(no file)" : file,
                             .getenv = get_env,
                             .read_file = enginei_read_file,
                             .driver = enginei_driver};
    struct buf       text = {0}, problems = {0};
    int              rc = 0;

    *out = NULL;
    c->opening = true;
    if (file == NULL)
        buf_add_str(&text, "{}");
    else
        TRY(enginei_read_file(NULL, file, &text, err));
    c->opening = false;
    rc = conf_load(buf_slice(&text), &root_type, &opts, out, &problems, err);
    if (rc == 0) {
        rc = check_parts(*out, err);
        if (rc != 0) {
            conf_free(*out);
            *out = NULL;
        }
    }
    /* One is the error itself; more are said all. */
    if (rc != 0 && problems.len > 0 &&
        memchr(problems.data, '\n', problems.len) !=
            (const void *)(problems.data + problems.len - 1)) {
        (void)!write(STDERR_FILENO, problems.data, problems.len);
        FAIL(err, rc, ERR_FATAL, "%s: nothing was done; the lines above say what to correct", file);
    }
out:
    buf_fini(&text);
    buf_fini(&problems);
    return rc;
}
