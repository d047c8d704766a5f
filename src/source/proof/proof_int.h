/* What the drivers share: placeholders of an event, and tables named in settings. */
#ifndef OX_SOURCE_PROOF_PROOF_INT_H
#define OX_SOURCE_PROOF_PROOF_INT_H

#include "base/conf.h"
#include "base/template.h"
#include "source/proof.h"

/* Names that a look-up may ask for: id, stream, type, data.PATH, metadata.PATH. */
bool proofi_known(void *arg, struct slice name);

/* For template_expand: `arg` is the event. A value that is not there is ERR_DATA. */
int proofi_look_up(void *arg, struct slice name, bool raw, struct buf *value, struct err *err);

/* A token of PostgreSQL's: SYSTEM/START/XID. */
struct proofi_token {
    char     life[48]; /* SYSTEM/START */
    char     system[24], xid[24];
    uint64_t start;
};
bool proofi_token_read(struct slice text, struct proofi_token *out);

#endif
