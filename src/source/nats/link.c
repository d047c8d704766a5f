/*
 * The connection and the consumer: a durable one that is pulled from, every message acknowledged by
 * itself. The library's reconnecting is off: a lost connection is a failure of the source, which is
 * started again.
 *
 * The place is the log's. A consumer that is behind it sends what the log has, which is dropped;
 * one that is ahead of it is made anew from that place, or is a gap where the messages are gone.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "broker/nats.h"
#include "source/nats/nats_int.h"

#define EXPIRES_NS INT64_C(5000000000)
#define EXPIRES_SLACK_US UINT64_C(3000000)
#define BUFFER_BYTES ((uint64_t)32 << 20)
#define PENDING_BYTES_MAX (256 << 20) /* the library's queue; more is lost, and sent again */
#define LOOK_US UINT64_C(50000)
/* While what is missing is to come again at once. No one would set it so: what a crash left of it
 * is set right. */
#define HURRY_NS INT64_C(101000001)

int
natsi_fail(natsStatus st, jsErrCode code, const char *what, struct err *err)
{
    if (code == JSStreamNotFoundErr || code == JSConsumerNotFoundErr)
        RETURN_ERR(err, E_NOTFOUND, ERR_RETRY, "NATS: %s: there is no such %s", what,
                   code == JSStreamNotFoundErr ? "stream" : "consumer");
    if (code != 0)
        RETURN_ERR(err, E_REMOTE, ERR_RETRY, "NATS: %s: JetStream refuses it (%d)", what,
                   (int)code);
    RETURN_ERR(err, st == NATS_CONNECTION_AUTH_FAILED ? E_AUTH : E_REMOTE, ERR_RETRY,
               "NATS: %s: %s", what, natsStatus_GetText(st));
}

void
natsi_disconnect(struct natsi_source *s)
{
    natsSubscription_Destroy(s->sub);
    jsCtx_Destroy(s->js);
    natsConnection_Destroy(s->conn);
    natsInbox_Destroy(s->inbox);
    s->sub = NULL;
    s->js = NULL;
    s->conn = NULL;
    s->inbox = NULL;
    s->asked = 0;
    s->sure = false;
    s->next_delivery = 0;
}

int
natsi_dial(struct natsi_source *s, struct err *err)
{
    jsOptions  options;
    natsStatus st = natsConnection_Connect(&s->conn, s->options);

    if (st == NATS_OK)
        st = jsOptions_Init(&options);
    if (st == NATS_OK) {
        options.Wait = (int64_t)(s->timeout_us / 1000);
        st = natsConnection_JetStream(&s->js, s->conn, &options);
    }
    if (st != NATS_OK)
        return natsi_fail(st, 0, "no connection", err);
    return 0;
}

/* asking */

int
natsi_stream_info(struct natsi_source *s, jsStreamInfo **out, struct err *err)
{
    jsErrCode  code = 0;
    natsStatus st = js_GetStreamInfo(out, s->js, s->stream, NULL, &code);

    if (st == NATS_NOT_FOUND)
        code = JSStreamNotFoundErr;
    return st == NATS_OK ? 0 : natsi_fail(st, code, s->stream, err);
}

int
natsi_consumer_info(struct natsi_source *s, jsConsumerInfo **out, struct err *err)
{
    jsErrCode  code = 0;
    natsStatus st = js_GetConsumerInfo(out, s->js, s->stream, s->consumer, NULL, &code);

    if (st == NATS_NOT_FOUND && code == 0)
        code = JSConsumerNotFoundErr;
    return st == NATS_OK ? 0 : natsi_fail(st, code, s->consumer, err);
}

int
natsi_consumer_delete(struct natsi_source *s, struct err *err)
{
    jsErrCode  code = 0;
    natsStatus st = js_DeleteConsumer(s->js, s->stream, s->consumer, NULL, &code);

    if (st == NATS_OK || st == NATS_NOT_FOUND || code == JSConsumerNotFoundErr)
        return 0;
    return natsi_fail(st, code, s->consumer, err);
}

int
natsi_consumer_make(struct natsi_source *s, const jsStreamInfo *stream, struct err *err)
{
    jsConsumerConfig config;
    jsErrCode        code = 0;
    natsStatus       st = jsConsumerConfig_Init(&config);

    if (st == NATS_OK) {
        config.Durable = s->consumer;
        config.AckPolicy = js_AckExplicit;
        config.AckWait = (int64_t)conf_duration_us(s->conf, "ack_wait") * 1000;
        config.MaxDeliver = -1;
        config.MaxAckPending = (int64_t)s->in_flight;
        config.FilterSubject = s->filter;
        config.DeliverPolicy = js_DeliverAll;
        /* A work queue has only what is to be delivered. */
        if (stream->Config->Retention != js_WorkQueuePolicy && s->known) {
            config.DeliverPolicy = js_DeliverByStartSequence;
            config.OptStartSeq = s->durable + 1;
        } else if (!s->known && s->from_new) {
            config.DeliverPolicy = js_DeliverNew;
        }
        st = js_AddConsumer(NULL, s->js, s->stream, &config, NULL, &code);
    }
    return st == NATS_OK ? 0 : natsi_fail(st, code, s->consumer, err);
}

int
natsi_consumer_fits(const struct natsi_source *s, const jsConsumerInfo *info, struct err *err)
{
    const jsConsumerConfig *c = info->Config;
    const char             *filter = c->FilterSubject == NULL ? "" : c->FilterSubject;
    const char             *wanted = s->filter == NULL ? "" : s->filter;

    if (c->AckPolicy != js_AckExplicit || (c->DeliverSubject != NULL && *c->DeliverSubject != '\0'))
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "NATS: the consumer %s is there, but is none that is pulled from with explicit "
                   "acknowledgements: give another name in `consumer`",
                   s->consumer);
    if (strcmp(filter, wanted) != 0 &&
        !((*filter == '\0' || *wanted == '\0') && strcmp(filter, *wanted == '\0' ? ">" : "") == 0))
        RETURN_ERR(err, E_STATE, ERR_FATAL,
                   "NATS: the consumer %s has the filter \"%s\", not \"%s\": delete it, or give "
                   "another name in `consumer`",
                   s->consumer, filter, wanted);
    return 0;
}

static int
set_ack_wait(struct natsi_source *s, const jsConsumerConfig *now, int64_t ns, struct err *err)
{
    jsConsumerConfig config = *now;
    jsErrCode        code = 0;
    natsStatus       st;

    config.AckWait = ns;
    st = js_UpdateConsumer(NULL, s->js, s->stream, &config, NULL, &code);
    return st == NATS_OK ? 0 : natsi_fail(st, code, "ack_wait", err);
}

/* the place */

/* The first message at or after `from` that the consumer would deliver; 0: there is none. */
static int
next_message(struct natsi_source *s, uint64_t from, uint64_t *out, struct err *err)
{
    natsMsg     *answer = NULL;
    struct buf   subject = {0}, body = {0};
    struct slice message, raw, text;
    natsStatus   st;
    int          rc = 0;

    *out = 0;
    buf_printf(&subject, "$JS.API.STREAM.MSG.GET.%s", s->stream);
    buf_add_byte(&subject, 0);
    buf_printf(&body, "{\"seq\":%" PRIu64 ",\"next_by_subj\":", from);
    json_put_str(&body, s->filter == NULL ? ">" : s->filter);
    buf_add_str(&body, "}");
    if (subject.failed || body.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a request");
    st = natsConnection_Request(&answer, s->conn, (const char *)subject.data, body.data,
                                (int)body.len, (int64_t)(s->timeout_us / 1000));
    if (st != NATS_OK)
        TRY(natsi_fail(st, 0, s->stream, err));
    text = slice_of(natsMsg_GetData(answer), (size_t)natsMsg_GetDataLength(answer));
    if (json_get(text, "message", &message) && json_get(message, "seq", &raw))
        (void)json_uint64(raw, out);
out:
    natsMsg_Destroy(answer);
    buf_fini(&subject);
    buf_fini(&body);
    return rc;
}

/* Go on without them, or say so. */
static int
gap(struct natsi_source *s, bool go_on, uint64_t from, uint64_t to, const char *why,
    struct err *err)
{
    if (go_on) {
        s->durable = to;
        s->tell = true;
        return 0;
    }
    RETURN_ERR(err, E_GONE, ERR_FATAL,
               "NATS: gap: messages %" PRIu64 " to %" PRIu64
               " of stream %s are gone and were never "
               "read%s: %s; to go on without them: oxbow source snapshot %s --gap",
               from, to, s->stream, s->filter == NULL ? "" : " (as far as the filter takes them)",
               why, s->base.instance);
}

/* Another stream of the same name, or the checkpoint's own. */
static int
check_stream(struct natsi_source *s, const jsStreamInfo *stream, bool go_on, struct err *err)
{
    if (s->known && s->created_ns != stream->Created) {
        if (!go_on)
            RETURN_ERR(err, E_GONE, ERR_FATAL,
                       "NATS: gap: stream %s was deleted and made anew since message %" PRIu64
                       "; to go on with the new one: oxbow source snapshot %s --gap",
                       s->stream, s->durable, s->base.instance);
        natsi_hold_drop(&s->hold, 0, s->hold.count);
        s->durable = 0;
        s->tell = true;
    }
    s->created_ns = stream->Created;
    return 0;
}

/* Whether the consumer is to be made anew, from the log's place. */
static int
check_place(struct natsi_source *s, const jsStreamInfo *stream, const jsConsumerInfo *info,
            bool go_on, bool *anew, struct err *err)
{
    uint64_t first = stream->State.FirstSeq, seen = s->durable, next;
    bool     passes = s->filter != NULL || !s->known; /* over what is not for it */
    int      rc = 0;

    *anew = info == NULL;
    if (passes && info != NULL && info->Delivered.Stream > seen)
        seen = info->Delivered.Stream;
    if (first > seen + 1 && (s->known || info != NULL))
        TRY(gap(s, go_on, seen + 1, first - 1, "the stream's limits, or somebody, removed them",
                err));
    if (!s->known || info == NULL || info->AckFloor.Stream <= s->durable)
        return 0;
    TRY(next_message(s, s->durable + 1, &next, err));
    if (next == 0 || next > info->AckFloor.Stream)
        return 0;
    *anew = stream->Config->Retention == js_LimitsPolicy;
    if (!*anew)
        TRY(gap(s, go_on, s->durable + 1, info->AckFloor.Stream,
                "the consumer has them acknowledged, the log has them not", err));
out:
    return rc;
}

static int
find_consumer(struct natsi_source *s, bool go_on, struct err *err)
{
    jsStreamInfo   *stream = NULL;
    jsConsumerInfo *info = NULL;
    bool            anew;
    int             rc;

    TRY(natsi_stream_info(s, &stream, err)); /* before the consumer: see check_place */
    TRY(check_stream(s, stream, go_on, err));
    rc = natsi_consumer_info(s, &info, err);
    if (rc != 0 && rc != E_NOTFOUND)
        goto out;
    if (info != NULL)
        TRY(natsi_consumer_fits(s, info, err));
    TRY(check_place(s, stream, info, go_on, &anew, err));
    if (anew) {
        if (info != NULL)
            TRY(natsi_consumer_delete(s, err));
        jsConsumerInfo_Destroy(info);
        info = NULL;
        TRY(natsi_consumer_make(s, stream, err));
        TRY(natsi_consumer_info(s, &info, err));
    }
    s->may_hurry = info->Config->MaxDeliver <= 0;
    s->ack_wait_ns = info->Config->AckWait;
    s->hurried = s->ack_wait_ns == HURRY_NS;
    if (s->hurried)
        s->ack_wait_ns = (int64_t)conf_duration_us(s->conf, "ack_wait") * 1000;
out:
    jsStreamInfo_Destroy(stream);
    jsConsumerInfo_Destroy(info);
    return rc;
}

int
natsi_connect(struct natsi_source *s, bool go_on, struct err *err)
{
    natsStatus st;
    int        rc;

    natsi_disconnect(s);
    TRY(natsi_dial(s, err));
    TRY(find_consumer(s, go_on, err));
    st = natsInbox_Create(&s->inbox);
    if (st == NATS_OK)
        st = natsConnection_SubscribeSync(&s->sub, s->conn, s->inbox);
    if (st == NATS_OK)
        st = natsSubscription_SetPendingLimits(s->sub, -1, PENDING_BYTES_MAX);
    if (st != NATS_OK)
        TRY(natsi_fail(st, 0, s->stream, err));
    buf_clear(&s->pull_subject);
    buf_printf(&s->pull_subject, "$JS.API.CONSUMER.MSG.NEXT.%s.%s", s->stream, s->consumer);
    buf_add_byte(&s->pull_subject, 0);
    if (s->pull_subject.failed)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a request");
    s->look_at_us = 0;
    s->progress_us = natsi_now_us(s);
out:
    if (rc != 0)
        natsi_disconnect(s);
    return rc;
}

/* talking */

void
natsi_answer(struct natsi_source *s, const natsMsg *msg, const char *word)
{
    if (s->conn != NULL) /* what is not heard comes again */
        (void)natsConnection_PublishString(s->conn, natsMsg_GetReply((natsMsg *)(uintptr_t)msg),
                                           word);
}

/* Keeps the server asked for as many as there is room for. */
int
natsi_pull(struct natsi_source *s, struct err *err)
{
    uint64_t   now = natsi_now_us(s), room = s->in_flight, least = s->sure ? 0 : 256, most;
    natsStatus st;

    if (s->asked > 0 && now >= s->asked_until_us)
        s->asked = 0;
    most = BUFFER_BYTES / (s->average == 0 ? 1024 : s->average) + 1;
    room = most < room ? most : room;
    room = room > s->hold.count - s->hold.out ? room - (s->hold.count - s->hold.out) : 0;
    room = room < least ? least : room;
    if (room == 0 || s->asked * 2 > room)
        return 0;
    buf_clear(&s->pull_body);
    buf_printf(&s->pull_body, "{\"batch\":%" PRIu64 ",\"expires\":%" PRId64 "}", room - s->asked,
               EXPIRES_NS);
    if (s->pull_body.failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a request");
    st = natsConnection_PublishRequest(s->conn, (const char *)s->pull_subject.data, s->inbox,
                                       s->pull_body.data, (int)s->pull_body.len);
    if (st != NATS_OK)
        return natsi_fail(st, 0, s->stream, err);
    s->asked = room;
    s->asked_until_us = now + (uint64_t)EXPIRES_NS / 1000 + EXPIRES_SLACK_US;
    return 0;
}

static int
judge(struct natsi_source *s, const jsConsumerInfo *info, uint64_t now, struct err *err)
{
    uint64_t waiting = info->NumAckPending < 0 ? 0 : (uint64_t)info->NumAckPending;
    int      rc = 0;

    s->pending = info->NumPending;
    s->missing = waiting > s->hold.count ? waiting - s->hold.count : 0;
    s->sure = info->Delivered.Stream >= s->hold.last &&
              (s->missing == 0 || info->Delivered.Stream <= s->durable);
    if (s->sure && s->hurried) {
        TRY(set_ack_wait(s, info->Config, s->ack_wait_ns, err));
        s->hurried = false;
    }
    if (s->sure)
        return 0;
    if (s->may_hurry && !s->hurried && s->missing > 0) {
        TRY(set_ack_wait(s, info->Config, HURRY_NS, err));
        s->hurried = true;
    }
    if (now - s->progress_us > 2 * ((uint64_t)s->ack_wait_ns / 1000) + EXPIRES_SLACK_US)
        FAIL(err, E_BUSY, ERR_RETRY,
             "NATS: %" PRIu64 " messages of consumer %s are with another client, and those after "
             "them wait: a source needs a consumer of its own",
             s->missing, s->consumer);
out:
    return rc;
}

int
natsi_look(struct natsi_source *s, struct err *err)
{
    jsConsumerInfo *info = NULL;
    uint64_t        now = natsi_now_us(s);
    int             rc = 0;

    if (now < s->look_at_us)
        return 0;
    s->look_at_us = now + LOOK_US;
    TRY(natsi_consumer_info(s, &info, err));
    rc = judge(s, info, now, err);
out:
    jsConsumerInfo_Destroy(info);
    return rc;
}
