/*
 * Spans of appends: from the request to the answer, and within it the log's commit. The context of
 * the caller comes in the header `traceparent`, or stands in the first event's metadata. A header's
 * goes into the metadata of the events that have none, so that deliveries find it.
 */
#include "base/json.h"
#include "base/must.h"
#include "log/log.h"
#include "server/server.h"
#include "server/server_int.h"

#define MEMBER_BYTES (sizeof "{\"" TRACE_MEMBER "\":\"\",}" + TRACE_TEXT_LEN)

void
server_set_traces(struct server *s, struct trace_queue *queue)
{
    s->traces = queue;
}

/* Is it a place for the context? *members: there are others in it. */
static bool
takes_member(const struct log_new_event *e, struct slice *object, bool *members)
{
    struct slice raw;

    *members = false;
    if (e->data.len + e->meta.len + MEMBER_BYTES > LOG_EVENT_MAX || (e->flags & LOG_LINK) != 0)
        return false;
    *object = slice_str("{}");
    if (e->meta.len == 0)
        return true;
    if (json_value(e->meta, object, NULL) != 0 || json_type(*object) != JSON_OBJECT ||
        json_get(*object, TRACE_MEMBER, &raw))
        return false;
    for (size_t i = 1; i + 1 < object->len && !*members; i++)
        *members = strchr(" \t\r\n", ((const char *)object->data)[i]) == NULL;
    return true;
}

/* Behind the members that are there. False: memory is out, and nothing was changed. */
static bool
store(struct log_new_event *events, uint32_t count, const struct trace_context *context,
      struct buf *texts)
{
    char         text[TRACE_TEXT_LEN + 1];
    struct slice object;
    size_t       room = 0;
    bool         members;

    trace_write(context, text);
    for (uint32_t i = 0; i < count; i++)
        room += events[i].meta.len + MEMBER_BYTES;
    buf_clear(texts);
    if (!buf_reserve(texts, room))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        size_t at = texts->len;

        if (!takes_member(&events[i], &object, &members))
            continue;
        buf_add(texts, object.data, object.len - 1);
        buf_add_str(texts, members ? ",\"" TRACE_MEMBER "\":\"" : "\"" TRACE_MEMBER "\":\"");
        buf_add_str(texts, text);
        buf_add_str(texts, "\"}");
        must(!texts->failed);
        events[i].meta = slice_of(texts->data + at, texts->len - at);
    }
    return true;
}

void
serveri_trace_append(struct server *s, struct append_trace *t, const struct trace_context *given,
                     struct log_new_event *events, uint32_t count)
{
    t->on = false;
    t->has_parent = given != NULL;
    if (count == 0)
        return;
    if (given != NULL)
        t->parent = *given;
    else if (s->traces != NULL)
        t->has_parent = trace_of_metadata(events[0].meta, &t->parent);
    if (s->traces != NULL) {
        trace_begin(s->traces, t->has_parent ? &t->parent : NULL, &t->context);
        t->on = t->context.sampled;
        t->began_us = s->env->ops->wall_us(s->env);
    }
    if (given != NULL)
        (void)store(events, count, t->on ? &t->context : &t->parent, &t->texts);
}

static void
put_spans(struct server *s, const struct append_trace *t, uint64_t submitted_us,
          const struct log_req *req, uint32_t count)
{
    struct trace_span append = {.context = t->context,
                                .parent = t->parent,
                                .has_parent = t->has_parent,
                                .kind = TRACE_SERVER,
                                .name = "append",
                                .begin_us = t->began_us,
                                .failed = req->rc != 0};
    struct trace_span commit = {.parent = t->context,
                                .has_parent = true,
                                .kind = TRACE_INTERNAL,
                                .name = "commit",
                                .failed = req->rc != 0};

    append.end_us = s->env->ops->wall_us(s->env);
    trace_attr_number(&append, "oxbow.events", count);
    if (req->rc == 0) {
        trace_attr_number(&append, "oxbow.position", req->last.v);
        trace_attr_number(&commit, "oxbow.position", req->last.v);
    } else {
        trace_attr_text(&append, "error.type", slice_str(err_name(req->rc)));
    }
    trace_begin(s->traces, &t->context, &commit.context);
    commit.end_us = append.end_us;
    commit.begin_us = append.end_us - (int64_t)(s->taken_us - submitted_us);
    if (commit.begin_us < append.begin_us)
        commit.begin_us = append.begin_us;
    trace_put(s->traces, &commit);
    trace_put(s->traces, &append);
}

void
serveri_trace_done(struct server *s, const struct append_trace *t, uint64_t submitted_us,
                   const struct log_req *req, uint32_t count)
{
    if (t->on && s->traces != NULL)
        put_spans(s, t, submitted_us, req, count);
}
