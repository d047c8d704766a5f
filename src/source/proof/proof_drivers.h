/* What can prove that a transaction committed: docs/outbox.md. */
#ifndef OX_SOURCE_PROOF_PROOF_DRIVERS_H
#define OX_SOURCE_PROOF_PROOF_DRIVERS_H

struct proof_ops;

extern const struct proof_ops proof_postgres_ops, proof_mariadb_ops, proof_sqlite_ops,
    proof_http_ops;

#endif
