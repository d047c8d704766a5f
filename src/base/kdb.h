/*
 * Messages of KurrentDB's protocol that the server and the source both speak, on the codec of pb.h.
 */
#ifndef OX_BASE_KDB_H
#define OX_BASE_KDB_H

#include "base/id.h"
#include "base/pb.h"

/* UUID: 1 two numbers, or 2 a text. False: malformed, or neither. */
bool kdb_read_uuid(struct slice message, struct ox_id *out);
void kdb_put_uuid(struct buf *out, uint32_t number, const struct ox_id *id, bool as_text);

/* StreamIdentifier: 3 the name. False: malformed. */
bool kdb_read_name(struct slice message, struct slice *out);
void kdb_put_name(struct buf *out, uint32_t number, struct slice name);

/* {1 commit, 2 prepare}. False: malformed. */
bool kdb_read_position(struct slice message, uint64_t *commit, uint64_t *prepare);
void kdb_put_position(struct buf *out, uint32_t number, uint64_t pos);

#endif
