/* Sources that poll an outbox table: docs/outbox.md. */
#ifndef OX_SOURCE_OUTBOX_OUTBOX_H
#define OX_SOURCE_OUTBOX_OUTBOX_H

struct source_ops;

extern const struct source_ops source_outbox_postgres_ops, source_outbox_mariadb_ops,
    source_outbox_sqlite_ops;

#endif
