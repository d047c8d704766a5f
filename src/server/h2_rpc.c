/* One gRPC call: headers, messages in, messages out, status and trailers. */
#include <stdlib.h>

#include "base/must.h"
#include "server/h2_int.h"
#include "user/user.h"

#define PREFIX 5 /* bytes before a message: a flag and its length */
#define KEEP (64U << 10)
#define SPARE_MAX 4096 /* bytes of a buffer that the next call gets */

static void
spare_buf(struct buf *b)
{
    buf_clear(b);
    if (b->cap > SPARE_MAX)
        buf_fini(b);
}

void
h2i_spare_free(struct h2 *h2)
{
    struct rpc *r = h2->spare;

    h2->spare = NULL;
    if (r == NULL)
        return;
    h2->bytes -= r->charged;
    buf_fini(&r->path);
    buf_fini(&r->in);
    buf_fini(&r->out);
    free(r);
}

/* Small calls come one after the other: each takes the last one's memory. */
static void
keep_spare(struct rpc *r)
{
    struct buf path = r->path, in = r->in, out = r->out;
    struct h2 *h2 = r->h2;

    memset(r, 0, sizeof *r);
    spare_buf(&path);
    spare_buf(&in);
    spare_buf(&out);
    r->h2 = h2;
    r->path = path;
    r->in = in;
    r->out = out;
    h2i_rpc_account(r);
    h2->spare = r;
}

struct rpc *
h2i_rpc_new(struct h2 *h2, int32_t id)
{
    struct rpc *r = h2->spare;

    h2->spare = NULL;
    if (r == NULL)
        r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->h2 = h2;
    r->id = id;
    r->progress_ms = h2->host.now_ms(h2->host.arg);
    r->next = h2->rpcs;
    if (h2->rpcs != NULL)
        h2->rpcs->prev = r;
    h2->rpcs = r;
    h2->rpc_count++;
    h2->unsaid++;
    h2i_rpc_account(r);
    return r;
}

void
h2i_rpc_said(struct rpc *r)
{
    r->h2->unsaid -= !r->said;
    r->said = true;
}

void
h2i_rpc_account(struct rpc *r)
{
    size_t now = sizeof *r + r->path.cap + r->proof.cap + r->in.cap + r->plain.cap + r->out.cap +
                 r->trailers.cap;

    r->h2->bytes += now - r->charged;
    r->charged = now;
}

static void
leave(struct rpc *r)
{
    if (r->went)
        return;
    r->went = true;
    rpc_keep(r, NULL);
    if (r->method != NULL && r->method->gone != NULL)
        r->method->gone(r);
    r->state = NULL;
}

void
h2i_rpc_free(struct rpc *r)
{
    struct h2 *h2 = r->h2;

    r->closed = true;
    h2i_rpc_said(r);
    leave(r);
    /* What was never looked at still counts against the connection. */
    if (r->held != 0)
        (void)nghttp2_session_consume_connection(h2->session, r->held);
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        h2->rpcs = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    h2->rpc_count--;
    h2->bytes -= r->charged;
    user_put(r->who);
    buf_fini(&r->proof);
    buf_fini(&r->plain);
    buf_fini(&r->trailers);
    if (h2->spare == NULL) {
        keep_spare(r);
        return;
    }
    buf_fini(&r->path);
    buf_fini(&r->in);
    buf_fini(&r->out);
    free(r);
}

/* Headers. */

static void
copy_text(char *out, struct slice value)
{
    size_t len = value.len < H2_NAME_MAX ? value.len : H2_NAME_MAX - 1;

    memcpy(out, value.data, len);
    out[len] = '\0';
}

/* "100m": at most eight digits and a unit. False: malformed. */
static bool
read_timeout(struct slice value, uint64_t *ms)
{
    static const char     units[] = "numSMH";
    static const uint64_t us_of[] = {0, 1, 1000, 1000000, 60000000, 3600000000};
    const char           *p = value.data, *unit;
    uint64_t              n = 0;

    if (value.len < 2 || value.len > 9)
        return false;
    for (size_t i = 0; i + 1 < value.len; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        n = n * 10 + (uint64_t)(p[i] - '0');
    }
    unit = memchr(units, p[value.len - 1], sizeof units - 1);
    if (unit == NULL)
        return false;
    *ms = *unit == 'n' ? n / 1000000 : n * us_of[unit - units] / 1000;
    return true;
}

void
h2i_rpc_header(struct rpc *r, struct slice name, struct slice value)
{
    uint64_t ms;

    if (slice_is(name, ":path")) {
        buf_add_slice(&r->path, value);
    } else if (slice_is(name, ":method")) {
        r->is_post = slice_is(value, "POST");
    } else if (slice_is(name, ":authority")) {
        copy_text(r->authority, value);
    } else if (slice_is(name, "authorization")) {
        buf_add_slice(&r->proof, value);
    } else if (slice_is(name, "connection-name")) {
        copy_text(r->connection, value);
    } else if (slice_is(name, "content-type")) {
        r->is_grpc = slice_is(value, "application/grpc") ||
                     slice_starts(value, slice_str("application/grpc+proto")) ||
                     slice_starts(value, slice_str("application/grpc;"));
    } else if (slice_is(name, "grpc-encoding")) {
        r->encoding = slice_is(value, "identity") ? H2_IDENTITY
                      : slice_is(value, "gzip")   ? H2_GZIP
                                                  : H2_UNKNOWN;
    } else if (slice_is(name, "traceparent")) {
        r->traced = trace_read(value, &r->trace);
    } else if (slice_is(name, "grpc-timeout")) {
        if (read_timeout(value, &ms))
            r->deadline_ms = r->h2->host.now_ms(r->h2->host.arg) + ms + (ms != 0);
        else
            r->bad_timeout = true;
    }
}

/* To who speaks no gRPC. */
static void
refuse_http(struct rpc *r, const char *status)
{
    nghttp2_nv head[] = {{(uint8_t *)(uintptr_t) ":status", (uint8_t *)(uintptr_t)status, 7,
                          strlen(status), NGHTTP2_NV_FLAG_NONE}};

    r->ended = r->answered = true;
    h2i_rpc_said(r);
    (void)nghttp2_submit_response(r->h2->session, r->id, head, 1, NULL);
    leave(r);
}

void
h2i_rpc_start(struct rpc *r)
{
    uint64_t now = r->h2->host.now_ms(r->h2->host.arg);

    h2i_rpc_account(r);
    if (!r->is_grpc || !r->is_post) {
        refuse_http(r, r->is_grpc ? "405" : "415");
        return;
    }
    r->found = r->h2->host.find(r->h2->host.arg, buf_slice(&r->path));
    if (r->found == NULL)
        rpc_end(r, RPC_UNIMPLEMENTED, "there is no such method here");
    else if (r->bad_timeout)
        rpc_end(r, RPC_INVALID_ARGUMENT, "grpc-timeout: is malformed");
    else if (r->deadline_ms != 0 && r->deadline_ms <= now)
        rpc_end(r, RPC_DEADLINE_EXCEEDED, "the deadline has passed");
    else if (r->h2->draining)
        rpc_end(r, RPC_UNAVAILABLE, "the server is stopping");
    else if (r->h2->host.enter == NULL ||
             r->h2->host.enter(r->h2->host.arg, r, buf_slice(&r->path), buf_slice(&r->proof)))
        r->method = r->found;
}

void
rpc_enter(struct rpc *r)
{
    if (r->ended)
        return;
    must(r->method == NULL);
    r->method = r->found;
    if (!r->method->many && r->in.len > PREFIX + H2_MESSAGE_MAX)
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "the request is too large");
    h2i_rpc_deliver(r);
    r->h2->host.dirty(r->h2->host.arg);
}

/* Messages in. */

static void
give_back_window(struct rpc *r)
{
    size_t held = r->held;

    if (held == 0 || r->closed)
        return;
    r->held = 0;
    (void)nghttp2_session_consume(r->h2->session, r->id, held);
}

void
h2i_rpc_data(struct rpc *r, struct slice bytes)
{
    r->held += bytes.len;
    r->progress_ms = r->h2->host.now_ms(r->h2->host.arg);
    if (r->ended) {
        give_back_window(r);
        return;
    }
    buf_add_slice(&r->in, bytes);
    h2i_rpc_account(r);
    if (r->in.failed || !r->h2->host.room(r->h2->host.arg)) {
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "the server's memory for requests is used up");
        return;
    }
    if (r->method != NULL && !r->method->many && r->in.len > PREFIX + H2_MESSAGE_MAX)
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "the request is too large");
    h2i_rpc_deliver(r);
}

/* Of the byte before a message. False: the call was ended. */
static bool
check_flag(struct rpc *r, uint8_t flag)
{
    if (flag == 0 || (flag == 1 && r->encoding == H2_GZIP))
        return true;
    if (flag == 1 && r->encoding == H2_UNKNOWN) {
        rpc_trailer(r, "grpc-accept-encoding", slice_str("identity,gzip"));
        rpc_end(r, RPC_UNIMPLEMENTED, "messages are taken as they are, or as gzip");
    } else {
        rpc_end(r, RPC_INTERNAL,
                flag == 1 ? "a message is compressed, and grpc-encoding does not say how"
                          : "a message's first byte is neither 0 nor 1");
    }
    return false;
}

/* What the client compressed. False: the call was ended. */
static bool
unpack(struct rpc *r, struct slice *message)
{
    r->plain.limit = H2_MESSAGE_MAX;
    if (!h2i_inflate(*message, &r->plain) && !r->plain.failed) {
        rpc_end(r, RPC_INTERNAL, "a compressed message is malformed");
        return false;
    }
    h2i_rpc_account(r);
    if (r->plain.failed || !r->h2->host.room(r->h2->host.arg)) {
        rpc_end(r, RPC_RESOURCE_EXHAUSTED,
                "a compressed message has more than 17 MiB, or there is no memory for it");
        return false;
    }
    *message = buf_slice(&r->plain);
    return true;
}

/* The next whole message, which ends at `*at`; false: there is none, or the call was ended. */
static bool
next_message(struct rpc *r, size_t *at, struct slice *out)
{
    const uint8_t *p;
    size_t         left = r->in.len - *at;
    uint64_t       len;

    if (left < PREFIX)
        return false;
    p = r->in.data + *at;
    len = (uint64_t)p[1] << 24 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 8 | p[4];
    if (!check_flag(r, p[0]))
        return false;
    if (len > H2_MESSAGE_MAX) {
        rpc_end(r, RPC_RESOURCE_EXHAUSTED, "a message has more than 17 MiB");
        return false;
    }
    if (!r->method->many && left - PREFIX > len) {
        rpc_end(r, RPC_INVALID_ARGUMENT, "this method takes one message");
        return false;
    }
    /* An answer that overtakes the request's end looks like a failure to some clients. */
    if (left - PREFIX < len || (!r->method->many && !r->half_closed))
        return false;
    *out = slice_of(p + PREFIX, (size_t)len);
    *at += PREFIX + (size_t)len;
    return p[0] == 0 || unpack(r, out);
}

static void
tell_half_closed(struct rpc *r)
{
    if (!r->half_closed || r->told || r->ended || r->paused)
        return;
    r->told = true;
    if (r->in.len != 0)
        rpc_end(r, RPC_INTERNAL, "the request ends within a message");
    else if (r->messages == 0 && !r->method->many)
        rpc_end(r, RPC_INTERNAL, "the request has no message");
    else if (r->method->half_closed != NULL)
        r->method->half_closed(r);
}

void
h2i_rpc_deliver(struct rpc *r)
{
    struct slice message;
    size_t       at = 0;

    if (r->delivering || r->method == NULL)
        return;
    r->delivering = true;
    while (!r->ended && !r->paused && next_message(r, &at, &message)) {
        r->messages++;
        r->method->message(r, message);
    }
    buf_consume(&r->in, at);
    r->h2->partial = !r->ended && r->in.len != 0;
    if (r->ended)
        spare_buf(&r->in);
    else if (r->in.len == 0 && r->in.cap > KEEP)
        buf_fini(&r->in);
    buf_fini(&r->plain);
    r->delivering = false;
    if (!r->paused)
        give_back_window(r);
    tell_half_closed(r);
    h2i_rpc_account(r);
}

void
rpc_pause(struct rpc *r)
{
    r->paused = true;
}

void
rpc_resume(struct rpc *r)
{
    if (!r->paused)
        return;
    r->paused = false;
    r->progress_ms = r->h2->host.now_ms(r->h2->host.arg);
    h2i_rpc_deliver(r);
    r->h2->host.dirty(r->h2->host.arg);
}

void
rpc_resume_soon(struct rpc *r)
{
    r->due = r->h2->due = true;
    r->h2->host.dirty(r->h2->host.arg);
}

void
h2i_rpc_tick(struct rpc *r, uint64_t now)
{
    bool waits = !r->half_closed && !r->paused &&
                 (r->in.len != 0 || (r->messages == 0 && r->method != NULL && !r->method->many));

    if (r->out.len == 0 && r->out.cap > KEEP) {
        buf_fini(&r->out);
        h2i_rpc_account(r);
    }
    if (r->ended)
        return;
    if (r->who != NULL && !user_is_valid(r->who))
        rpc_end(r, RPC_UNAUTHENTICATED, "the user was changed: log in again");
    else if (r->deadline_ms != 0 && now >= r->deadline_ms)
        rpc_end(r, RPC_DEADLINE_EXCEEDED, "the deadline has passed");
    else if (waits && now - r->progress_ms > r->h2->host.body_ms_max)
        rpc_end(r, RPC_DEADLINE_EXCEEDED, "the request came too slowly");
    else if (r->method != NULL && r->method->tick != NULL)
        r->method->tick(r, now);
}

/* What a method asks. */

struct h2 *
rpc_h2(const struct rpc *r)
{
    return r->h2;
}

struct user *
rpc_who(const struct rpc *r)
{
    return r->who;
}

void
rpc_set_who(struct rpc *r, struct user *who)
{
    user_put(r->who);
    r->who = who;
}

void
rpc_keep(struct rpc *r, struct rpc_hold *hold)
{
    if (r->hold != NULL)
        r->hold->rpc = NULL;
    r->hold = hold;
    if (hold != NULL)
        hold->rpc = r;
}

void *
rpc_state(const struct rpc *r)
{
    return r->state;
}

void
rpc_set_state(struct rpc *r, void *state)
{
    r->state = state;
}

struct slice
rpc_connection_name(const struct rpc *r)
{
    return slice_str(r->connection);
}

struct slice
rpc_authority(const struct rpc *r)
{
    return slice_str(r->authority);
}

const struct trace_context *
rpc_trace(const struct rpc *r)
{
    return r->traced ? &r->trace : NULL;
}

uint64_t
rpc_deadline_ms(const struct rpc *r)
{
    return r->deadline_ms;
}

bool
rpc_is_half_closed(const struct rpc *r)
{
    return r->half_closed;
}

/* Messages out. */

struct buf *
rpc_begin(struct rpc *r, size_t *mark)
{
    static const uint8_t prefix[PREFIX];

    *mark = r->out.len;
    buf_add(&r->out, prefix, PREFIX);
    return &r->out;
}

void
rpc_abandon(struct rpc *r, size_t mark)
{
    if (!r->out.failed)
        r->out.len = mark;
}

size_t
rpc_pending(const struct rpc *r)
{
    return r->out.len - r->out_at;
}

/* flags: NGHTTP2_NV_FLAG_*, what nghttp2 need not copy. */
static nghttp2_nv
nv(const char *name, const char *value, int flags)
{
    nghttp2_nv pair = {(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
                       strlen(value), (uint8_t)flags};

    return pair;
}

#define LASTS (NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE)

/* grpc-status, grpc-message and the trailers of the method. */
static size_t
put_end(struct rpc *r, nghttp2_nv *pairs)
{
    static const char *const numbers[] = {"0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                          "9", "10", "11", "12", "13", "14", "15", "16"};
    const char              *p = (const char *)r->trailers.data;
    size_t                   n = 0;

    must((size_t)r->status < sizeof numbers / sizeof numbers[0]);
    pairs[n++] = nv("grpc-status", numbers[r->status], LASTS);
    if (r->text[0] != '\0')
        pairs[n++] = nv("grpc-message", r->text, NGHTTP2_NV_FLAG_NO_COPY_NAME);
    for (unsigned i = 0; i < r->trailer_count; i++) {
        const char *value = p + strlen(p) + 1;

        pairs[n++] = nv(p, value, NGHTTP2_NV_FLAG_NONE);
        p = value + strlen(value) + 1;
    }
    return n;
}

/* What was taken makes room, before the rest moves to the front. */
static void
consume_out(struct rpc *r, size_t len)
{
    r->out_at += len;
    if (r->out_at == r->out.len) {
        buf_clear(&r->out);
        r->out_at = 0;
        if (r->out.cap > 2 * H2_OUT_HIGH)
            buf_fini(&r->out); /* what is less is kept until a quiet moment */
        h2i_rpc_account(r);
    } else if (r->out_at > H2_OUT_HIGH) {
        buf_consume(&r->out, r->out_at);
        r->out_at = 0;
    }
}

static ssize_t
read_out(nghttp2_session *session, int32_t id, uint8_t *to, size_t len, uint32_t *flags,
         nghttp2_data_source *source, void *arg)
{
    struct rpc *r = source->ptr;
    size_t      left = rpc_pending(r);
    nghttp2_nv  pairs[2 + H2_TRAILERS_MAX];

    if (left == 0 && !r->ended)
        return NGHTTP2_ERR_DEFERRED;
    if (len > left)
        len = left;
    if (len != 0)
        memcpy(to, r->out.data + r->out_at, len);
    consume_out(r, len);
    if (r->ended && len == left) {
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        if (nghttp2_submit_trailer(session, id, pairs, put_end(r, pairs)) != 0)
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    } else if (r->stalled && left - len < H2_OUT_LOW) {
        r->stalled = false;
        if (r->method->drained != NULL)
            r->method->drained(r);
    }
    return (ssize_t)len;
}

/* The headers of the answer, with its end when there is nothing else. */
static void
answer(struct rpc *r)
{
    nghttp2_data_provider body = {{.ptr = r}, read_out};
    nghttp2_nv            pairs[4 + H2_TRAILERS_MAX];
    size_t                n = 0;
    bool                  whole = r->ended && r->out.len == 0;

    pairs[n++] = nv(":status", "200", LASTS);
    pairs[n++] = nv("content-type", "application/grpc", LASTS);
    if (whole)
        n += put_end(r, pairs + n);
    r->answered = true;
    h2i_rpc_said(r);
    (void)nghttp2_submit_response(r->h2->session, r->id, pairs, n, whole ? NULL : &body);
}

static void
go_on(struct rpc *r)
{
    if (r->closed)
        return;
    if (!r->answered)
        answer(r);
    else
        (void)nghttp2_session_resume_data(r->h2->session, r->id);
    r->h2->host.dirty(r->h2->host.arg);
}

/* The end. */

static void
percent_encode(struct buf *out, struct slice text)
{
    static const char digits[] = "0123456789ABCDEF";
    const uint8_t    *p = text.data;

    for (size_t i = 0; i < text.len; i++) {
        if (p[i] >= ' ' && p[i] <= '~' && p[i] != '%') {
            buf_add_byte(out, p[i]);
        } else {
            buf_add_byte(out, '%');
            buf_add_byte(out, (uint8_t)digits[p[i] >> 4]);
            buf_add_byte(out, (uint8_t)digits[p[i] & 15]);
        }
    }
}

void
rpc_trailer(struct rpc *r, const char *name, struct slice value)
{
    size_t before = r->trailers.len;

    must(r->trailer_count < H2_TRAILERS_MAX);
    buf_add(&r->trailers, name, strlen(name) + 1);
    percent_encode(&r->trailers, value);
    buf_add_byte(&r->trailers, 0);
    if (r->trailers.failed)
        r->trailers.len = before;
    else
        r->trailer_count++;
}

static void
end(struct rpc *r, enum rpc_status status, const char *text)
{
    struct buf encoded = {.limit = sizeof r->text - 1};

    if (r->ended)
        return;
    r->ended = true;
    r->status = (int)status;
    percent_encode(&encoded, slice_str(text));
    if (encoded.len != 0)
        memcpy(r->text, encoded.data, encoded.len);
    /* Nothing half a code: a text that was cut may end in one. */
    for (int i = 1; i <= 2 && encoded.failed && encoded.len > 2; i++)
        if (r->text[encoded.len - (size_t)i] == '%')
            r->text[encoded.len - (size_t)i] = '\0';
    buf_fini(&encoded);
    if (!r->delivering)
        spare_buf(&r->in);
    give_back_window(r);
    go_on(r);
}

void
rpc_end(struct rpc *r, enum rpc_status status, const char *text)
{
    end(r, status, text);
    leave(r);
}

void
rpc_commit(struct rpc *r, size_t mark)
{
    uint8_t *p;
    size_t   len;

    if (r->ended || r->out.failed) { /* something is missing: nothing may follow */
        r->out.len = mark;
        end(r, RPC_RESOURCE_EXHAUSTED, "no memory for the answer");
        return;
    }
    p = r->out.data + mark;
    len = r->out.len - mark - PREFIX;
    must(len <= UINT32_MAX);
    p[1] = (uint8_t)(len >> 24);
    p[2] = (uint8_t)(len >> 16);
    p[3] = (uint8_t)(len >> 8);
    p[4] = (uint8_t)len;
    if (rpc_pending(r) >= H2_OUT_HIGH)
        r->stalled = true;
    h2i_rpc_account(r);
    go_on(r);
}
