/* The rules of a sink: which events become which requests. */
#include <stdio.h>
#include <stdlib.h>

#include "sink/http/http_int.h"

static const char *const methods[] = {"PUT", "POST", "PATCH", "DELETE", "GET", NULL};
static const char *const cloudevents[] = {"binary", "structured", "off", NULL}; /* sink_format */
static const char *const otherwise[] = {"park", "skip", NULL};

static const struct conf_type status = {.kind = CONF_INT, .min = 300, .max = 599};
static const struct conf_type header = {.kind = CONF_STRING, .min = 1, .max = 1024};

static const struct conf_field rule_fields[] = {
    {.name = "type",
     .type = {.kind = CONF_STRING, .min = 1, .max = 255},
     .doc = "the type of its events"},
    {.name = "type_prefix",
     .type = {.kind = CONF_STRING, .min = 1, .max = 255},
     .doc = "what their type begins with; without both: all events"},
    {.name = "method",
     .type = {.kind = CONF_ENUM, .values = methods},
     .preset = "POST",
     .doc = "of the request"},
    {.name = "url",
     .type = {.kind = CONF_STRING, .min = 1, .max = 2048},
     .required = true,
     .doc = "with placeholders: {key}, {stream}, {type}, {id}, {version}, {position}, {created}, "
            "{data.a.b}, {meta.a.b}"},
    {.name = "body",
     .type = {.kind = CONF_STRING, .max = 65536},
     .doc = "JSON with placeholders, {data} and {meta} too; absent: the event's data"},
    {.name = "headers",
     .type =
         {.kind = CONF_MAP, .max = HTTPI_RULE_HEADERS_MAX, .chars = "A-Za-z0-9_-", .of = &header},
     .preset = "{}",
     .doc = "with placeholders"},
    {.name = "done",
     .type = {.kind = CONF_LIST, .max = HTTPI_STATUSES_MAX, .of = &status},
     .preset = "[]",
     .doc = "further statuses that mean: done"},
    {.name = "retry",
     .type = {.kind = CONF_LIST, .max = HTTPI_STATUSES_MAX, .of = &status},
     .preset = "[]",
     .doc = "further statuses that mean: later"},
    {.name = NULL},
};
static const struct conf_type rule_type = {.kind = CONF_OBJECT, .fields = rule_fields};

static const struct conf_field breaker_fields[] = {
    {.name = "failures",
     .type = {.kind = CONF_INT, .min = 0, .max = 1000000},
     .preset = "0",
     .doc = "in a row, after which nothing is sent for a while; 0: never"},
    {.name = "pause",
     .type = {.kind = CONF_DURATION, .min = 1000, .max = INT64_C(3600) * 1000000},
     .preset = "10s",
     .doc = "until one event is tried"},
    {.name = NULL},
};

static const struct conf_field sink_fields[] = {
    NET_SERVICE_FIELDS,
    {.name = "in_flight",
     .type = {.kind = CONF_INT, .min = 1, .max = HTTPI_CREDIT_MAX},
     .preset = "16",
     .doc = "requests at a time, each of another stream"},
    {.name = "rules",
     .type = {.kind = CONF_LIST, .min = 1, .max = HTTPI_RULES_MAX, .of = &rule_type},
     .required = true,
     .doc = "the first that fits an event's type is taken"},
    {.name = "batch",
     .type = {.kind = CONF_OBJECT, .fields = sinki_http_batch_fields},
     .doc = "many events in one request"},
    {.name = "sign",
     .type = {.kind = CONF_OBJECT, .fields = sinki_http_sign_fields},
     .doc = "a signature of each body"},
    {.name = "oauth",
     .type = {.kind = CONF_OBJECT, .fields = sinki_http_oauth_fields},
     .doc = "tokens by client credentials"},
    {.name = "breaker",
     .type = {.kind = CONF_OBJECT, .fields = breaker_fields},
     .preset = "{}",
     .doc = "when to leave a failing service alone"},
    {.name = "otherwise",
     .type = {.kind = CONF_ENUM, .values = otherwise},
     .preset = "park",
     .doc = "what becomes of an event that no rule fits"},
    {.name = "cloudevents",
     .type = {.kind = CONF_ENUM, .values = cloudevents},
     .preset = "off",
     .doc = "binary: its attributes as headers; structured: the whole event is the body"},
    {.name = "source",
     .type = {.kind = CONF_STRING, .min = 1, .max = 1024},
     .preset = "oxbow",
     .doc = "the CloudEvents attribute, a URI with placeholders"},
    {.name = NULL},
};
const struct conf_type sinki_http_schema = {.kind = CONF_OBJECT, .fields = sink_fields};

static int
copy_text(char **to, const struct conf *conf, const char *key, struct err *err)
{
    const char *text = conf_str(conf, key);

    if (text != NULL && (*to = strdup(text)) == NULL)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    return 0;
}

static int
compile(const struct conf *at, const char *text, enum template_kind kind, const char *what,
        struct template **out, struct err *err)
{
    struct err why = {0};

    if (template_new(slice_str(text), kind, sink_fill_known, NULL, out, &why) != 0)
        return conf_fail(at, err, "%s: %s", what, why.text);
    return 0;
}

static int
conf_headers(struct httpi_rule *r, const struct conf *headers, struct err *err)
{
    int rc = 0;

    for (const struct conf *h = conf_first(headers); h != NULL; h = conf_next(h)) {
        must(r->header_count < HTTPI_RULE_HEADERS_MAX);
        r->header_names[r->header_count] = strdup(conf_key(h));
        if (r->header_names[r->header_count] == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
        r->header_count++;
        TRY(compile(h, conf_text(h), TEMPLATE_TEXT, "a header", &r->headers[r->header_count - 1],
                    err));
    }
out:
    return rc;
}

static uint32_t
conf_statuses(int *to, const struct conf *list)
{
    uint32_t n = 0;

    for (const struct conf *s = conf_first(list); s != NULL; s = conf_next(s)) {
        must(n < HTTPI_STATUSES_MAX);
        to[n++] = (int)conf_number(s);
    }
    return n;
}

static int
conf_rule(struct httpi_sink *s, struct httpi_rule *r, const struct conf *conf, struct err *err)
{
    const char *body = conf_str(conf, "body");
    int         rc = 0;

    TRY(copy_text(&r->type, conf, "type", err));
    TRY(copy_text(&r->type_prefix, conf, "type_prefix", err));
    (void)snprintf(r->method, sizeof r->method, "%s", methods[conf_enum(conf, "method")]);
    (void)snprintf(r->label, sizeof r->label, "%s %s", r->method, conf_str(conf, "url"));
    TRY(net_service_template(s->service, conf, "url", sink_fill_known, NULL, &r->url, err));
    r->bare = strcmp(r->method, "DELETE") == 0 || strcmp(r->method, "GET") == 0;
    if (body != NULL)
        TRY(compile(conf, body, TEMPLATE_JSON, "body", &r->body, err));
    if (body != NULL && s->format == SINK_STRUCTURED)
        return conf_fail(conf_child(conf, "body"), err,
                         "with cloudevents: structured the event is "
                         "the body");
    TRY(conf_headers(r, conf_child(conf, "headers"), err));
    r->done_count = conf_statuses(r->done, conf_child(conf, "done"));
    r->retry_count = conf_statuses(r->retry, conf_child(conf, "retry"));
out:
    return rc;
}

int
sinki_http_conf(struct httpi_sink *s, const struct conf *conf, struct err *err)
{
    const struct conf *rules = conf_child(conf, "rules");
    int                rc = 0;

    s->credit = (uint32_t)conf_int(conf, "in_flight");
    s->fail_max = (uint32_t)conf_int(conf_child(conf, "breaker"), "failures");
    s->fail_pause_us = conf_duration_us(conf_child(conf, "breaker"), "pause");
    TRY(sinki_http_auth_open(s->sink.env, conf, &s->auth, err));
    s->format = (enum sink_format)conf_enum(conf, "cloudevents");
    s->skip_others = conf_enum(conf, "otherwise") == 1;
    s->rules = calloc(conf_count(rules), sizeof *s->rules);
    s->slots = calloc(s->credit, sizeof *s->slots);
    if (s->rules == NULL || s->slots == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    TRY(sink_form_new(&(struct sink_form_def){.binding = SINK_HTTP,
                                              .format = s->format,
                                              .source = conf_str(conf, "source")},
                      conf, &s->form, err));
    TRY(net_service_new(s->sink.env, conf, s->credit, &s->service, err));
    for (const struct conf *r = conf_first(rules); r != NULL; r = conf_next(r))
        TRY(conf_rule(s, &s->rules[s->rule_count++], r, err));
    TRY(sinki_http_batch_open(s, conf, err));
out:
    return rc;
}

void
sinki_http_conf_free(struct httpi_sink *s)
{
    for (uint32_t i = 0; i < s->rule_count; i++) {
        struct httpi_rule *r = &s->rules[i];

        free(r->type);
        free(r->type_prefix);
        template_free(r->url);
        template_free(r->body);
        for (uint32_t j = 0; j < r->header_count; j++) {
            free(r->header_names[j]);
            template_free(r->headers[j]);
        }
    }
    sinki_http_auth_free(s->auth);
    free(s->items);
    s->auth = NULL;
    s->items = NULL;
    sink_form_free(s->form);
    net_service_free(s->service);
    free(s->rules);
    free(s->slots);
    s->form = NULL;
    s->service = NULL;
    s->rules = NULL;
    s->slots = NULL;
    s->rule_count = 0;
}

const struct httpi_rule *
sinki_http_match(const struct httpi_sink *s, struct slice type)
{
    for (uint32_t i = 0; i < s->rule_count; i++) {
        const struct httpi_rule *r = &s->rules[i];

        if ((r->type == NULL || slice_is(type, r->type)) &&
            (r->type_prefix == NULL || slice_starts(type, slice_str(r->type_prefix))))
            return r;
    }
    return NULL;
}
