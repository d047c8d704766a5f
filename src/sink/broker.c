#include "sink/broker.h"

#include "sink/fill.h"

#define PAUSE_US UINT64_C(20000) /* between two attempts to connect; the core waits longer */

static int
open_way(struct template **way, const struct conf *conf, const char *key, const char *preset,
         enum template_kind kind, struct err *err)
{
    if (preset == NULL || conf_has(conf, key))
        return sink_template(conf, key, kind, way, err);
    return template_new(slice_str(preset), kind, sink_fill_known, NULL, way, err);
}

int
sink_broker_open(struct sink_broker *b, struct sink *sink, const struct conf *conf,
                 const struct sink_broker_def *def, struct err *err)
{
    int rc;

    b->timeout_us = conf_duration_us(conf, "timeout");
    b->message_max = conf_size(conf, "message_max");
    TRY(sink_form_open(conf, def->binding, &b->form, err));
    for (int i = 0; i < SINK_WAYS; i++)
        TRY(open_way(&b->ways[i], conf, def->ways[i], def->presets[i], def->kind, err));
    TRY(sink_slots_init(&b->slots, sink, (uint32_t)conf_int(conf, "in_flight"), err));
out:
    return rc;
}

void
sink_broker_close(struct sink_broker *b)
{
    sink_slots_fini(&b->slots);
    sink_form_free(b->form);
    b->form = NULL;
    for (int i = 0; i < SINK_WAYS; i++) {
        template_free(b->ways[i]);
        b->ways[i] = NULL;
        buf_fini(&b->text[i]);
    }
    buf_fini(&b->scratch);
}

int
sink_broker_ways(struct sink_broker *b, const struct sink_item *item, struct err *err)
{
    void *arg = (void *)(uintptr_t)item;
    int   rc = 0;

    for (int i = 0; i < SINK_WAYS; i++) {
        if (template_count(b->ways[i]) == 0 && b->text[i].len > 0)
            continue; /* the same for all */
        buf_clear(&b->text[i]);
        TRY(template_expand(b->ways[i], sink_fill, arg, &b->scratch, &b->text[i], err));
        buf_add_byte(&b->text[i], 0);
        if (b->text[i].failed)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a message");
    }
out:
    return rc;
}

int
sink_broker_message(struct sink_broker *b, const struct sink_item *item, struct err *err)
{
    int rc = sink_form_fill(b->form, item, &b->message, err);

    if (rc == 0 && b->message.body.len > b->message_max)
        RETURN_ERR(err, E_LIMIT, ERR_DATA, "the message is larger than message_max");
    return rc;
}

struct slice
sink_broker_way(const struct sink_broker *b, int i)
{
    must(b->text[i].len > 0);
    return slice_of(b->text[i].data, b->text[i].len - 1);
}

const char *
sink_broker_text(const struct sink_broker *b, int i)
{
    return sink_broker_way(b, i).data;
}

int
sink_broker_connect(struct sink_broker *b, sink_connect_fn *connect, struct err *err)
{
    struct sink *sink = b->slots.sink;
    int          rc;

    if (sink_now_us(sink) < b->connect_at_us) {
        *err = b->why;
        return err->code;
    }
    rc = connect(sink, err);
    if (rc != 0) {
        b->why = *err;
        b->connect_at_us = sink_now_us(sink) + PAUSE_US;
    }
    return rc;
}

int
sink_broker_submit(struct sink_broker *b, struct sink_item *item, sink_give_fn *give)
{
    struct sink_slot *slot = sink_slot_take(&b->slots, item);
    struct err        why;

    if (give(b->slots.sink, slot, &why) != 0)
        sink_slot_decide(&b->slots, slot, &why);
    return 0;
}
