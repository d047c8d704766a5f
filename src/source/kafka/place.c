/* Where each partition is, and the checkpoint that says so. */
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/must.h"
#include "source/kafka/kafka_int.h"

struct kafkai_place *
kafkai_place(struct kafkai_places *p, const char *topic, int32_t partition)
{
    struct kafkai_place *place;

    for (uint32_t i = 0; i < p->count; i++)
        if (p->at[i].partition == partition && strcmp(p->at[i].topic, topic) == 0)
            return &p->at[i];
    if (p->count == p->room) {
        uint32_t room = p->room == 0 ? 16 : p->room * 2;

        place = realloc(p->at, room * sizeof *place);
        if (place == NULL)
            return NULL;
        p->at = place;
        p->room = room;
    }
    place = &p->at[p->count];
    *place = (struct kafkai_place){.topic = strdup(topic),
                                   .partition = partition,
                                   .next = KAFKAI_UNKNOWN,
                                   .durable = KAFKAI_UNKNOWN,
                                   .told = KAFKAI_UNKNOWN};
    if (place->topic == NULL)
        return NULL;
    p->count++;
    return place;
}

void
kafkai_places_fini(struct kafkai_places *p)
{
    for (uint32_t i = 0; i < p->count; i++)
        free(p->at[i].topic);
    free(p->at);
    *p = (struct kafkai_places){0};
}

bool
kafkai_places_know(const struct kafkai_places *p, const char *topic)
{
    for (uint32_t i = 0; i < p->count; i++)
        if (p->at[i].next != KAFKAI_UNKNOWN && strcmp(p->at[i].topic, topic) == 0)
            return true;
    return false;
}

/* Those of one topic stand together; each topic begins where none before was of it. */
static bool
first_of_topic(const struct kafkai_places *p, uint32_t i)
{
    for (uint32_t k = 0; k < i; k++)
        if (p->at[k].next != KAFKAI_UNKNOWN && strcmp(p->at[k].topic, p->at[i].topic) == 0)
            return false;
    return p->at[i].next != KAFKAI_UNKNOWN;
}

int
kafkai_places_put(const struct kafkai_places *p, struct buf *out, struct err *err)
{
    struct json_out o;
    char            number[16];

    json_out_init(&o, out);
    json_out_object(&o);
    json_out_key(&o, "epoch");
    json_out_u64(&o, p->epoch);
    json_out_key(&o, "topics");
    json_out_object(&o);
    for (uint32_t i = 0; i < p->count; i++) {
        if (!first_of_topic(p, i))
            continue;
        json_out_key(&o, p->at[i].topic);
        json_out_object(&o);
        for (uint32_t k = i; k < p->count; k++) {
            if (p->at[k].next == KAFKAI_UNKNOWN || strcmp(p->at[k].topic, p->at[i].topic) != 0)
                continue;
            (void)snprintf(number, sizeof number, "%d", (int)p->at[k].partition);
            json_out_key(&o, number);
            json_out_i64(&o, p->at[k].next);
        }
        json_out_object_end(&o);
    }
    json_out_object_end(&o);
    json_out_object_end(&o);
    if (out->failed)
        RETURN_ERR(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
    return 0;
}

/* Kafka's names of topics need no escape. */
static int
get_topic(struct kafkai_places *p, struct slice name, struct slice partitions, struct err *err)
{
    struct json_iter     it;
    struct kafkai_place *place;
    struct slice         key, value;
    char                 topic[256];
    uint64_t             partition, next;
    int                  rc;

    if (name.len >= sizeof topic)
        FAIL(err, E_SCHEMA, ERR_FATAL, "the checkpoint is not one of a source kafka");
    (void)snprintf(topic, sizeof topic, "%.*s", SLICE_FMT(name));
    TRY(json_object_iter(&it, partitions, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0) {
        if (!json_uint64(key, &partition) || partition > INT32_MAX || !json_uint64(value, &next) ||
            next > INT64_MAX)
            FAIL(err, E_SCHEMA, ERR_FATAL, "the checkpoint is not one of a source kafka");
        place = kafkai_place(p, topic, (int32_t)partition);
        if (place == NULL)
            FAIL(err, E_NOMEM, ERR_RETRY, "out of memory for a checkpoint");
        place->next = place->durable = (int64_t)next;
    }
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}

int
kafkai_places_get(struct kafkai_places *p, struct slice checkpoint, struct err *err)
{
    struct json_iter it;
    struct slice     key, value, topics, epoch;
    int              rc;

    for (uint32_t i = 0; i < p->count; i++)
        p->at[i].next = p->at[i].durable = KAFKAI_UNKNOWN;
    p->epoch = 0;
    if (checkpoint.len == 0)
        return 0;
    if (!json_get(checkpoint, "topics", &topics) || !json_get(checkpoint, "epoch", &epoch) ||
        !json_uint64(epoch, &p->epoch))
        FAIL(err, E_SCHEMA, ERR_FATAL, "the checkpoint is not one of a source kafka");
    TRY(json_object_iter(&it, topics, err));
    while ((rc = json_iter_next(&it, &key, &value, err)) == 0)
        TRY(get_topic(p, key, value, err));
    if (rc == E_END)
        rc = 0;
out:
    return rc;
}
