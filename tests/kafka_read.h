/* All records of a topic, as a consumer of the tests' own sees them. */
#ifndef OX_TESTS_KAFKA_READ_H
#define OX_TESTS_KAFKA_READ_H

#include <librdkafka/rdkafka.h>

typedef void kafka_read_fn(void *arg, const rd_kafka_message_t *);

/* Each partition in its order, from its beginning to what is its end now. NULL, or what went wrong.
 */
const char *
kafka_read(const char *brokers, const char *topic, int partitions, kafka_read_fn *, void *arg);

#endif
