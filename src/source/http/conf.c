/* The configuration of a feed. */
#include <stdio.h>

#include "source/http/http_int.h"

#define PATH_TYPE                                                                                  \
    {                                                                                              \
        .kind = CONF_STRING, .max = HTTPI_PATH_MAX - 1                                             \
    }

static const char *const       op_words[] = {"insert", "update", "delete", "truncate", NULL};
static const struct conf_type  op_word = {.kind = CONF_ENUM, .values = op_words};
static const struct conf_type  field_name = {.kind = CONF_STRING, .min = 1, .max = 256};
static const struct conf_type  gone_status = {.kind = CONF_INT, .min = 400, .max = 499};
static const struct conf_field paths_fields[] = {
    {.name = "list", .type = PATH_TYPE, .preset = "changes", .doc = "in the answer: the changes"},
    {.name = "next", .type = PATH_TYPE, .preset = "next", .doc = "in the answer: the next cursor"},
    {.name = "head", .type = PATH_TYPE, .preset = "", .doc = "in the answer: the newest cursor"},
    {.name = "cursor", .type = PATH_TYPE, .preset = "cursor", .doc = "in a change: its cursor"},
    {.name = "op", .type = PATH_TYPE, .preset = "op", .doc = "in a change: what was done"},
    {.name = "key", .type = PATH_TYPE, .preset = "id", .doc = "in a change: the key of the row"},
    {.name = "row", .type = PATH_TYPE, .preset = "row", .doc = "in a change: the row afterwards"},
    {.name = "before", .type = PATH_TYPE, .preset = "", .doc = "in a change: the row before it"},
    {.name = "origin", .type = PATH_TYPE, .preset = "origin", .doc = "in a change: whose it is"},
    {.name = "time", .type = PATH_TYPE, .preset = "", .doc = "in a change: when, RFC 3339"},
    {.name = NULL},
};

static const struct conf_field snapshot_fields[] = {
    {.name = "position_url",
     .type = {.kind = CONF_STRING, .min = 1, .max = 2048},
     .required = true,
     .doc = "of the head of the feed, read before the snapshot begins"},
    {.name = "position",
     .type = PATH_TYPE,
     .preset = "head",
     .doc = "path of the cursor in that answer"},
    {.name = "scan",
     .type = {.kind = CONF_OBJECT, .fields = net_scan_fields},
     .required = true,
     .doc = "pages of rows"},
    {.name = NULL},
};

static const struct conf_field source_fields[] = {
    NET_SERVICE_FIELDS,
    {.name = "changes",
     .type = {.kind = CONF_STRING, .min = 1, .max = 2048},
     .required = true,
     .doc = "URL of the feed; placeholders {cursor}, {limit} and {wait_ms}"},
    {.name = "table",
     .type = {.kind = CONF_STRING, .min = 1, .max = 200},
     .required = true,
     .doc = "what its rows are called"},
    {.name = "paths",
     .type = {.kind = CONF_OBJECT, .fields = paths_fields},
     .preset = "{}",
     .doc = "where things stand; empty: nowhere"},
    {.name = "ops",
     .type = {.kind = CONF_MAP, .min = 1, .max = HTTPI_OPS_MAX, .of = &op_word},
     .required = true,
     .doc = "the service's words for what was done"},
    {.name = "begin",
     .type = {.kind = CONF_STRING, .min = 1, .max = 255},
     .preset = "0",
     .doc = "the cursor of a first start without a snapshot"},
    {.name = "limit",
     .type = {.kind = CONF_INT, .min = 1, .max = 10000},
     .preset = "500",
     .doc = "the most changes to ask for at once"},
    {.name = "wait",
     .type = {.kind = CONF_DURATION, .max = 300000000},
     .preset = "20s",
     .doc = "{wait_ms}: how long the service may wait for a change"},
    {.name = "gone",
     .type = {.kind = CONF_LIST, .max = HTTPI_GONE_MAX, .of = &gone_status},
     .preset = "[410]",
     .doc = "statuses that mean: the feed no longer has that cursor"},
    {.name = "fields",
     .type = {.kind = CONF_LIST, .max = NET_FIELDS_MAX, .of = &field_name},
     .preset = "[]",
     .doc = "the members of a row that count; none: all of them"},
    {.name = "missing_is_null",
     .type = {.kind = CONF_BOOL},
     .preset = "false",
     .doc = "the service leaves out members that are null"},
    {.name = "snapshot",
     .type = {.kind = CONF_OBJECT, .fields = snapshot_fields},
     .doc = "the rows that were there before the feed; absent: the feed has them all"},
    {.name = NULL},
};
const struct conf_type sourcei_http_schema = {.kind = CONF_OBJECT, .fields = source_fields};

static void
copy(char *to, size_t size, const struct conf *conf, const char *key)
{
    const char *text = conf_str(conf, key);

    (void)snprintf(to, size, "%s", text == NULL ? "" : text);
}

static void
copy_paths(struct httpi_paths *p, const struct conf *conf)
{
    copy(p->list, sizeof p->list, conf, "list");
    copy(p->next, sizeof p->next, conf, "next");
    copy(p->head, sizeof p->head, conf, "head");
    copy(p->cursor, sizeof p->cursor, conf, "cursor");
    copy(p->op, sizeof p->op, conf, "op");
    copy(p->key, sizeof p->key, conf, "key");
    copy(p->row, sizeof p->row, conf, "row");
    copy(p->before, sizeof p->before, conf, "before");
    copy(p->origin, sizeof p->origin, conf, "origin");
    copy(p->time, sizeof p->time, conf, "time");
}

static int
copy_ops(struct httpi_source *s, const struct conf *conf, struct err *err)
{
    static const enum change_op ops[] = {CHANGE_INSERT, CHANGE_UPDATE, CHANGE_DELETE,
                                         CHANGE_TRUNCATE};

    for (const struct conf *o = conf_first(conf); o != NULL; o = conf_next(o)) {
        struct httpi_op *to = &s->ops[s->op_count++];
        size_t           i = 0;

        must(s->op_count <= HTTPI_OPS_MAX);
        if (strlen(conf_key(o)) >= sizeof to->word)
            return conf_fail(o, err, "longer than %zu bytes", sizeof to->word - 1);
        (void)snprintf(to->word, sizeof to->word, "%s", conf_key(o));
        while (strcmp(op_words[i], conf_text(o)) != 0) {
            i++;
            must(op_words[i] != NULL);
        }
        to->op = ops[i];
    }
    return 0;
}

static int
conf_snapshot(struct httpi_source *s, const struct conf *conf, struct err *err)
{
    struct net_var none[] = {{NULL, {0}}};
    int            rc = 0;

    copy(s->position_path, sizeof s->position_path, conf, "position");
    (void)snprintf(s->position_label, sizeof s->position_label, "GET %s",
                   conf_str(conf, "position_url"));
    TRY(net_service_template(s->service, conf, "position_url", net_var_known, none,
                             &s->position_url, err));
    TRY(net_scan_new(s->service, conf_child(conf, "scan"), &s->scan, err));
out:
    return rc;
}

int
sourcei_http_conf(struct httpi_source *s, const struct conf *conf, struct err *err)
{
    struct net_var     known[] = {{"cursor", {0}}, {"limit", {0}}, {"wait_ms", {0}}, {NULL, {0}}};
    const struct conf *snapshot = conf_child(conf, "snapshot");
    int                rc = 0;

    copy(s->table, sizeof s->table, conf, "table");
    copy(s->begin, sizeof s->begin, conf, "begin");
    (void)snprintf(s->changes_label, sizeof s->changes_label, "GET %s", conf_str(conf, "changes"));
    copy_paths(&s->paths, conf_child(conf, "paths"));
    if (s->paths.next[0] == '\0' && s->paths.cursor[0] == '\0')
        TRY(conf_fail(conf, err, "paths: one of next and cursor has to be there"));
    if (s->paths.op[0] == '\0' || s->paths.key[0] == '\0')
        TRY(conf_fail(conf, err, "paths: op and key have to be there"));
    TRY(copy_ops(s, conf_child(conf, "ops"), err));
    for (const struct conf *g = conf_first(conf_child(conf, "gone")); g != NULL; g = conf_next(g))
        s->gone[s->gone_count++] = (int)conf_number(g);
    s->limit = (uint32_t)conf_int(conf, "limit");
    s->wait_ms = (uint32_t)(conf_duration_us(conf, "wait") / 1000);
    TRY(net_service_new(s->source.env, conf, 1, &s->service, err));
    TRY(net_service_template(s->service, conf, "changes", net_var_known, known, &s->changes_url,
                             err));
    if (snapshot != NULL)
        TRY(conf_snapshot(s, snapshot, err));
    TRY(net_shape_new(s->scan == NULL ? NULL : net_scan_key(s->scan), NULL,
                      conf_child(conf, "fields"), conf_bool(conf, "missing_is_null"), &s->shape,
                      err));
out:
    return rc;
}

void
sourcei_http_conf_free(struct httpi_source *s)
{
    template_free(s->changes_url);
    template_free(s->position_url);
    net_scan_free(s->scan);
    net_shape_free(s->shape);
    net_service_free(s->service);
    s->changes_url = s->position_url = NULL;
    s->scan = NULL;
    s->shape = NULL;
    s->service = NULL;
}
