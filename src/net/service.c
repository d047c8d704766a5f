#include "net/service.h"

#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "base/url.h"

#define URL_TEXT_MAX 4096

const struct conf_type net_header_type = {.kind = CONF_SECRET, .max = 4096};

const char *const net_versions[] = {"auto", "1.1", NULL};

struct net_service {
    struct net_client *client;
    char              *url; /* without a "/" at its end */
    uint32_t           timeout_ms, header_count;
    struct net_header  headers[NET_HEADERS_MAX];
    char              *header_text[NET_HEADERS_MAX * 2];
};

void
net_service_free(struct net_service *s)
{
    if (s == NULL)
        return;
    net_client_free(s->client);
    for (uint32_t i = 0; i < NET_HEADERS_MAX * 2; i++)
        free(s->header_text[i]);
    free(s->url);
    free(s);
}

static int
read_headers(struct net_service *s, const struct conf *headers, struct err *err)
{
    for (const struct conf *h = conf_first(headers); h != NULL; h = conf_next(h)) {
        uint32_t i = s->header_count;

        must(i < NET_HEADERS_MAX);
        s->header_text[i * 2] = strdup(conf_key(h));
        s->header_text[i * 2 + 1] = strdup(conf_text(h));
        if (s->header_text[i * 2] == NULL || s->header_text[i * 2 + 1] == NULL)
            RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
        s->headers[i].name = slice_str(s->header_text[i * 2]);
        s->headers[i].value = slice_str(s->header_text[i * 2 + 1]);
        s->header_count++;
    }
    return 0;
}

static uint32_t
read_ms(const struct conf *conf, const char *key)
{
    uint64_t ms = conf_duration_us(conf, key) / 1000;

    return ms == 0 ? 1 : (uint32_t)ms;
}

int
net_service_new(struct ox_env *env, const struct conf *conf, uint32_t in_flight_max,
                struct net_service **out, struct err *err)
{
    struct net_service *s = calloc(1, sizeof *s);
    struct net_def      def = {0};
    struct url          url;
    size_t              len;
    int                 rc = 0;

    *out = NULL;
    if (s == NULL || (s->url = strdup(conf_str(conf, "url"))) == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for the configuration");
    must(url_parse_http(slice_str(s->url), &url, NULL) == 0); /* the schema has seen to it */
    if (url.query.len > 0)
        TRY(conf_fail(conf, err, "url: others go on from it, so it ends before the query"));
    for (len = strlen(s->url); len > 0 && s->url[len - 1] == '/'; len--)
        s->url[len - 1] = '\0';
    TRY(read_headers(s, conf_child(conf, "headers"), err));
    def.connect_ms = read_ms(conf, "connect_timeout");
    def.total_ms = s->timeout_ms = read_ms(conf, "timeout");
    def.answer_max = (size_t)conf_size(conf, "answer_max");
    def.in_flight_max = in_flight_max;
    def.version = (enum net_version)conf_enum(conf, "http_version");
    def.ca_file = conf_str(conf, "ca_file");
    TRY(net_client_new(env, &def, &s->client, err));
    *out = s;
    s = NULL;
out:
    net_service_free(s);
    return rc;
}

struct net_client *
net_service_client(struct net_service *s)
{
    return s->client;
}

struct slice
net_service_url(const struct net_service *s)
{
    return slice_str(s->url);
}

uint32_t
net_service_timeout_ms(const struct net_service *s)
{
    return s->timeout_ms;
}

uint32_t
net_service_headers(const struct net_service *s, struct net_header *out)
{
    memcpy(out, s->headers, s->header_count * sizeof *out);
    return s->header_count;
}

int
net_service_template(struct net_service *s, const struct conf *conf, const char *key,
                     template_known_fn *known, void *arg, struct template **out, struct err *err)
{
    const char *text = conf_str(conf, key);
    struct buf  whole;
    struct err  why = {0};
    int         rc = 0;

    *out = NULL;
    buf_init(&whole, URL_TEXT_MAX);
    if (text[0] == '/')
        buf_add_str(&whole, s->url);
    else if (strncmp(text, "http://", 7) != 0 && strncmp(text, "https://", 8) != 0)
        TRY(conf_fail(conf, err, "%s: must begin with \"/\", http:// or https://", key));
    buf_add_str(&whole, text);
    if (whole.failed)
        TRY(conf_fail(conf, err, "%s: longer than %d bytes", key, URL_TEXT_MAX));
    if (template_new(buf_slice(&whole), TEMPLATE_URL, known, arg, out, &why) != 0)
        TRY(conf_fail(conf, err, "%s: %s", key, why.text));
out:
    buf_fini(&whole);
    return rc;
}

bool
net_var_known(void *arg, struct slice name)
{
    for (const struct net_var *v = arg; v->name != NULL; v++)
        if (slice_is(name, v->name))
            return true;
    return false;
}

int
net_var_lookup(void *arg, struct slice name, bool raw, struct buf *value, struct err *err)
{
    const struct net_var *v = arg;

    (void)err;
    must(!raw); /* URLs only */
    while (!slice_is(name, v->name)) {
        v++;
        must(v->name != NULL);
    }
    buf_add_slice(value, v->value);
    return 0;
}

int
net_text_of(struct slice raw, const char *what, struct buf *out, struct err *err)
{
    switch (json_type(raw)) {
    case JSON_STRING:
        return json_string_decode(raw, out, err);
    case JSON_NUMBER:
        buf_add_slice(out, raw);
        return 0;
    default:
        RETURN_ERR(err, E_SCHEMA, ERR_RETRY, "%s is %s, not a string or a number", what,
                   raw.len == 0 ? "missing" : json_type_name(json_type(raw)));
    }
}
