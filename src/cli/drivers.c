/* The drivers that this build has; nothing else names them. */
#include <string.h>

#include "base/conf.h"
#include "cli/engine_int.h"
#include "sink/file/file.h"
#include "sink/sink.h"
#include "source/source.h"
#include "store/store.h"
#ifdef OX_SOURCE_HTTP
#include "source/http/http.h"
#endif
#ifdef OX_SOURCE_KURRENTDB
#include "source/kurrentdb/kurrentdb.h"
#endif
#ifdef OX_SOURCE_POSTGRES
#include "source/postgres/postgres.h"
#endif
#ifdef OX_SOURCE_MARIADB
#include "source/mariadb/mariadb.h"
#endif
#include "source/outbox/outbox.h"
#include "source/proof.h"
#include "source/proof/proof_drivers.h"
#include "source/queue.h"
#ifdef OX_SOURCE_KAFKA
#include "source/kafka/kafka.h"
#endif
#ifdef OX_SOURCE_NATS
#include "source/nats/nats.h"
#endif
#ifdef OX_SOURCE_RABBITMQ
#include "source/rabbitmq/rabbitmq.h"
#endif
#ifdef OX_SOURCE_SQLITE
#include "source/sqlite/sqlite.h"
#endif
#ifdef OX_SINK_HTTP
#include "sink/http/http.h"
#endif
#ifdef OX_SINK_KAFKA
#include "sink/kafka/kafka.h"
#endif
#ifdef OX_SINK_MARIADB
#include "sink/mariadb/mariadb.h"
#endif
#ifdef OX_SINK_NATS
#include "sink/nats/nats.h"
#endif
#ifdef OX_SINK_POSTGRES
#include "sink/postgres/postgres.h"
#endif
#ifdef OX_SINK_RABBITMQ
#include "sink/rabbitmq/rabbitmq.h"
#endif
#ifdef OX_SINK_SQLITE
#include "sink/sqlite/sqlite.h"
#endif
#ifdef OX_STORE_HTTP
#include "store/http/http.h"
#endif
#ifdef OX_STORE_SQLITE
#include "store/sqlite/sqlite.h"
#endif

static const struct source_ops *const sources[] = {
#ifdef OX_SOURCE_HTTP
    &source_http_ops,
#endif
#ifdef OX_SOURCE_KURRENTDB
    &source_kurrentdb_ops,
#endif
#ifdef OX_SOURCE_POSTGRES
    &source_postgres_ops,
#endif
#ifdef OX_SOURCE_MARIADB
    &source_mariadb_ops,
#endif
#ifdef OX_SOURCE_SQLITE
    &source_sqlite_ops,
#endif
#ifdef OX_OUTBOX_POSTGRES
    &source_outbox_postgres_ops,
#endif
#ifdef OX_OUTBOX_MARIADB
    &source_outbox_mariadb_ops,
#endif
#ifdef OX_OUTBOX_SQLITE
    &source_outbox_sqlite_ops,
#endif
    NULL,
};

static const struct proof_ops *const proofs[] = {
#ifdef OX_PROOF_POSTGRES
    &proof_postgres_ops,
#endif
#ifdef OX_PROOF_MARIADB
    &proof_mariadb_ops,
#endif
#ifdef OX_PROOF_SQLITE
    &proof_sqlite_ops,
#endif
#ifdef OX_PROOF_HTTP
    &proof_http_ops,
#endif
    NULL,
};

static const struct queue_ops *const queues[] = {
#ifdef OX_SOURCE_KAFKA
    &source_kafka_ops,
#endif
#ifdef OX_SOURCE_NATS
    &source_nats_ops,
#endif
#ifdef OX_SOURCE_RABBITMQ
    &source_rabbitmq_ops,
#endif
    NULL,
};

static const struct sink_ops *const sinks[] = {
    &sink_file_ops,
#ifdef OX_SINK_HTTP
    &sink_http_ops,
#endif
#ifdef OX_SINK_KAFKA
    &sink_kafka_ops,
#endif
#ifdef OX_SINK_MARIADB
    &sink_mariadb_ops,
#endif
#ifdef OX_SINK_NATS
    &sink_nats_ops,
#endif
#ifdef OX_SINK_POSTGRES
    &sink_postgres_ops,
#endif
#ifdef OX_SINK_RABBITMQ
    &sink_rabbitmq_ops,
#endif
#ifdef OX_SINK_SQLITE
    &sink_sqlite_ops,
#endif
    &sink_stdout_ops,   NULL,
};

static const struct store_ops *const stores[] = {
#ifdef OX_STORE_HTTP
    &store_http_ops,
#endif
#ifdef OX_STORE_SQLITE
    &store_sqlite_ops,
#endif
    NULL,
};

#define FIND(table, type)                                                                          \
    for (size_t i = 0; (table)[i] != NULL; i++)                                                    \
        if (strcmp((table)[i]->name, (type)) == 0)                                                 \
            return (table)[i];                                                                     \
    return NULL

const struct source_ops *
enginei_source(void *arg, const char *type)
{
    FIND(sources, type);
}

const struct proof_ops *
enginei_proof(const char *type)
{
    FIND(proofs, type);
}

const struct queue_ops *
enginei_queue(const char *type)
{
    FIND(queues, type);
}

const struct sink_ops *
enginei_sink(void *arg, const char *type)
{
    FIND(sinks, type);
}

const struct store_ops *
enginei_store(void *arg, const char *type)
{
    FIND(stores, type);
}

bool
enginei_driver(void *arg, const char *family, size_t i, struct conf_driver *out)
{
#define GIVE(table)                                                                                \
    if (i >= sizeof(table) / sizeof((table)[0]) || (table)[i] == NULL)                             \
        return false;                                                                              \
    *out = (struct conf_driver){(table)[i]->name, (table)[i]->schema};                             \
    return true

    if (strcmp(family, "source") == 0) {
        size_t count = sizeof sources / sizeof sources[0] - 1;
        size_t verifying = sizeof proofs / sizeof proofs[0] - 1;

        if (i < count) {
            GIVE(sources);
        }
        /* What verifies messages is a source too, of the events that it releases. */
        i -= count;
        if (i < verifying) {
            GIVE(proofs);
        }
        i -= verifying;
        GIVE(queues);
    } else if (strcmp(family, "sink") == 0) {
        GIVE(sinks);
    } else if (strcmp(family, "store") == 0) {
        GIVE(stores);
    }
    return false;
}
