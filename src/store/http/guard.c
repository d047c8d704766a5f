/*
 * The fence at the service: one small resource with the epoch and with where
 * applications may write. The service orders its changes with its writes, so
 * that after the answer no write of an older epoch commits there any more.
 */
#include <stdio.h>

#include "base/json.h"
#include "store/http/http_int.h"

static int
need_guard(struct httpi_store *s, struct err *err)
{
    int rc = 0;

    if (s->guard == NULL)
        FAIL(err, E_STATE, ERR_FATAL, "the configuration has no \"guard\" for this store");
    TRY(storei_http_url(s, s->guard, slice_of(NULL, 0), err));
out:
    return rc;
}

static int
read_guard(struct httpi_store *s, struct slice body, struct store_guard *guard, struct err *err)
{
    struct json_field fields[3] = {{.name = s->epoch_name, .required = true},
                                   {.name = s->authority_name, .required = true},
                                   {.name = s->moved_to_name}};
    struct buf        text = {0};
    int               rc = 0;

    memset(guard, 0, sizeof *guard);
    TRY(json_pick(body, fields, s->moved_to_name[0] == '\0' ? 2 : 3, JSON_PICK_ANY, err));
    if (!json_uint64(fields[0].value, &guard->epoch))
        FAIL(err, E_SCHEMA, ERR_RETRY, "\"%s\" is no whole number", s->epoch_name);
    if (json_type(fields[1].value) != JSON_STRING)
        FAIL(err, E_SCHEMA, ERR_RETRY, "\"%s\" is no string", s->authority_name);
    TRY(json_string_decode(fields[1].value, &text, err));
    guard->writable = slice_is(buf_slice(&text), s->here);
    if (!guard->writable && !slice_is(buf_slice(&text), s->elsewhere))
        FAIL(err, E_SCHEMA, ERR_FATAL, "\"%s\" is neither \"%s\" nor \"%s\"", s->authority_name,
             s->here, s->elsewhere);
    if (json_type(fields[2].value) == JSON_STRING) {
        buf_clear(&text);
        TRY(json_string_decode(fields[2].value, &text, err));
        (void)snprintf(guard->moved_to, sizeof guard->moved_to, "%.*s",
                       SLICE_FMT(buf_slice(&text)));
    }
    if (text.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a guard");
out:
    buf_fini(&text);
    if (rc != 0) {
        if (err != NULL && err->kind == ERR_DATA)
            err->kind = ERR_RETRY;
        err_prefix(err, "%s", s->guard_get);
    }
    return rc;
}

int
storei_http_guard_get(struct store *store, struct store_guard *guard, struct err *err)
{
    struct httpi_store *s = (struct httpi_store *)store;
    struct net_answer   answer;
    int                 rc = 0;

    TRY(need_guard(s, err));
    TRY(storei_http_get(s, s->guard_get, &answer, err));
    TRY(read_guard(s, answer.body, guard, err));
    if (guard->epoch == 0 && guard->writable)
        FAIL(err, E_NOTFOUND, ERR_DATA, "%s: epoch 0: there was no guard yet", s->guard_get);
out:
    return rc;
}

static void
put_guard(struct httpi_store *s, const struct store_guard *guard)
{
    struct json_out o;

    buf_clear(&s->body);
    json_out_init(&o, &s->body);
    json_out_object(&o);
    json_out_key(&o, s->epoch_name);
    json_out_u64(&o, guard->epoch);
    json_out_key(&o, s->authority_name);
    json_out_str(&o, guard->writable ? s->here : s->elsewhere);
    if (s->moved_to_name[0] != '\0') {
        json_out_key(&o, s->moved_to_name);
        json_out_str(&o, guard->moved_to);
    }
    json_out_object_end(&o);
}

/* The same guard again is no change, so a lost answer is simply tried again by the caller. */
int
storei_http_guard_set(struct store *store, const struct store_guard *guard, struct err *err)
{
    struct httpi_store  *s = (struct httpi_store *)store;
    struct httpi_headers headers;
    struct net_answer    answer;
    struct net_request   r = {.method = "PUT", .label = s->guard_put, .head_only = true};
    int                  rc = 0;

    TRY(need_guard(s, err));
    put_guard(s, guard);
    if (s->body.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a guard");
    storei_http_headers_start(s, &headers);
    storei_http_headers_add(&headers, "Content-Type", slice_str("application/json"));
    r.url = buf_slice(&s->url);
    r.body = buf_slice(&s->body);
    r.headers = headers.list;
    r.header_count = headers.count;
    r.changes = true;
    TRY(net_call(net_service_client(s->service), &r, &answer, err));
    TRY(storei_http_status(s, &answer, s->guard_put, true, err));
out:
    return rc;
}

/* What stands there at this epoch or a newer one is left alone: installing never steps back. */
int
storei_http_guard_install(struct store *store, const struct store_guard *guard, struct err *err)
{
    struct store_guard there;
    int                rc = storei_http_guard_get(store, &there, err);

    if (rc == 0 && there.epoch >= guard->epoch)
        goto out;
    if (rc != 0 && rc != E_NOTFOUND)
        goto out;
    TRY(storei_http_guard_set(store, guard, err));
out:
    return rc;
}

/*
 * The fence is a part of the service and stays; what goes is the ban. Writers
 * without an epoch are then served as before there was a migration.
 */
int
storei_http_guard_remove(struct store *store, struct err *err)
{
    struct store_guard guard;
    int                rc = storei_http_guard_get(store, &guard, err);

    if (rc == E_NOTFOUND)
        return 0;
    if (rc != 0 || guard.writable)
        return rc;
    guard.epoch++;
    guard.writable = true;
    guard.moved_to[0] = '\0';
    return storei_http_guard_set(store, &guard, err);
}
