/* Streams that were moved: the answer that says where to, and appends that follow. */
#include "base/json.h"
#include "server/append_int.h"

int
serveri_follow_read(const struct call *call, bool *follow, struct err *err)
{
    struct slice text;

    *follow = false;
    if (!call_query(call, "follow", &text) || slice_is(text, "false"))
        return 0;
    if (!slice_is(text, "true"))
        RETURN_ERR(err, E_INVALID, ERR_DATA, "follow: must be true or false");
    *follow = true;
    return 0;
}

void
serveri_moved_put(struct buf *body, struct log *log, struct slice stream, const char *key)
{
    size_t before = body->len;

    buf_printf(body, ",\"%s\":", key);
    if (log_moved_to(log, stream, body, NULL) != 0)
        body->len = before; /* moved back, or gone, meanwhile */
}

void
serveri_moved_answer(struct call *call, struct slice stream, const struct err *err)
{
    struct buf body = {0};

    buf_add_str(&body, "{\"error\":\"stream-moved\",\"message\":");
    json_put_str(&body, err->text);
    buf_add_str(&body, ",\"stream\":");
    json_put_string(&body, stream);
    serveri_moved_put(&body, call->conn->server->log, stream, "streams");
    buf_add_str(&body, "}\n");
    call_answer(call, 409, CALL_JSON, buf_slice(&body));
    buf_fini(&body);
}

bool
serveri_moved_follow(struct append *a)
{
    struct log *log = a->conn->server->log;
    struct buf  name = {0};

    if (a->req.rc != E_MOVED || !a->follow || a->hops == LOG_HOPS_MAX)
        return false;
    /* The refusal stands where it went to several. */
    if (log_moved_follow(log, a->req.wrong_stream, &name, NULL) != 0 ||
        slice_eq(buf_slice(&name), a->req.wrong_stream)) {
        buf_fini(&name);
        return false;
    }
    a->hops++;
    buf_fini(&a->followed);
    a->followed = name;
    a->one.stream = buf_slice(&a->followed);
    return true;
}
