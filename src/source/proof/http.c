/*
 * The proof `verify-http`: a service that is asked whether the message is true.
 * 2xx: it is. 404 or 410: not yet, or never, which the deadline decides.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "net/service.h"
#include "source/proof/proof_drivers.h"
#include "source/proof/proof_int.h"

static const struct conf_field fields[] = {
    NET_SERVICE_FIELDS,
    {.name = "lookup",
     .type = {.kind = CONF_STRING, .min = 1, .max = 2048},
     .required = true,
     .doc = "URL with {id}, {stream}, {type}, {data.PATH}, {metadata.PATH}"},
    PROOF_FIELDS,
    {0},
};

static const struct conf_type schema = {.kind = CONF_OBJECT, .fields = fields};

struct http_proof {
    struct proof        base;
    struct net_service *service;
    struct template    *lookup;
    struct buf          url, scratch;
};

static struct http_proof *
mine(struct proof *p)
{
    return (struct http_proof *)p;
}

static void
close_proof(struct proof *base)
{
    struct http_proof *s = mine(base);

    template_free(s->lookup);
    net_service_free(s->service);
    buf_fini(&s->url);
    buf_fini(&s->scratch);
}

static int
open_proof(struct proof *base, const struct conf *conf, struct err *err)
{
    struct http_proof *s = mine(base);
    int                rc;

    TRY(net_service_new(base->env, conf, 1, &s->service, err));
    TRY(net_service_template(s->service, conf, "lookup", proofi_known, NULL, &s->lookup, err));
out:
    if (rc != 0)
        close_proof(base);
    return rc;
}

static int
ask_one(struct http_proof *s, struct proof_item *item, struct err *err)
{
    struct net_header  headers[NET_HEADERS_MAX];
    struct net_request request = {
        .method = "GET", .headers = headers, .label = s->base.instance, .head_only = true};
    struct net_answer answer;
    struct err        why;
    int               rc;

    item->by = "lookup";
    buf_clear(&s->url);
    rc = template_expand(s->lookup, proofi_look_up, &item->event, &s->scratch, &s->url, &why);
    if (rc != 0 && why.kind == ERR_DATA) {
        item->by = "lookup: the message lacks a value";
        return 0;
    }
    if (rc != 0) {
        err_copy(err, &why);
        return rc;
    }
    request.url = buf_slice(&s->url);
    request.header_count = net_service_headers(s->service, headers);
    TRY(net_call(net_service_client(s->service), &request, &answer, err));
    if (answer.status >= 200 && answer.status < 300)
        item->verdict = PROOF_COMMITTED;
    else if (answer.status != 404 && answer.status != 410)
        TRY(net_status(&answer, s->base.instance, false, err));
out:
    if (rc != 0 && err->kind != ERR_RETRY)
        err->kind = ERR_RETRY; /* to be asked again, by whoever set it right */
    return rc;
}

static int
ask(struct proof *base, struct proof_item *items, uint32_t count, struct err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = ask_one(mine(base), &items[i], err);
    return rc;
}

static int
forget(struct proof *base, const struct slice *ids, uint32_t count, struct err *err)
{
    return 0;
}

static int
check(struct proof *base, finding_fn *say, void *arg, struct err *err)
{
    say(arg, FINDING_OK, "the service is asked when there is a message");
    return 0;
}

const struct proof_ops proof_http_ops = {
    .name = "verify-http",
    .size = sizeof(struct http_proof),
    .schema = &schema,
    .open = open_proof,
    .close = close_proof,
    .check = check,
    .ask = ask,
    .forget = forget,
};
