/*
 * Verify after publish: messages that came before their transactions ended
 * wait in a stream, and become events when those are known to have committed.
 *
 * A message is held as the event that it will be, with "$verify" in its
 * metadata: {"stream": where it goes, "token": …}. Its verdict is one commit:
 * the event, if it is released; a record in $verified-NAME (Released, Discarded
 * or Parked); and the checkpoint in $source-NAME, which holds on to the version
 * that was read, so that of two of a name one fails. What a crash leaves is the
 * last checkpoint; what was asked for and not decided is asked for again.
 *
 * Messages of one stream are decided in the order in which they were published:
 * one waits for those before it.
 */
#ifndef OX_CORE_VERIFY_H
#define OX_CORE_VERIFY_H

#include "base/env.h"
#include "base/err.h"
#include "log/log.h"
#include "source/proof.h"

struct verify;

struct verify_conf {
    const char *name;   /* of the source in the configuration */
    const char *stream; /* NULL: $unverified-NAME */
    uint64_t    delay_us, deadline_us;
    bool        discard; /* what nothing is known of at the deadline; else it is parked */
    uint32_t    window;
};

enum verify_state {
    VERIFY_STARTING,
    VERIFY_RUNNING,
    VERIFY_RETRYING,
    VERIFY_STOPPED,
    VERIFY_FAILED,
};

struct verify_status {
    enum verify_state state;
    uint64_t          held;                        /* undecided, those not looked at yet included */
    uint64_t          oldest_ms;                   /* age of the oldest undecided one; 0: none */
    uint64_t          running;                     /* of which the transaction is known to go on */
    uint64_t          released, discarded, parked; /* since the start */
    char              error[ERR_TEXT_MAX];
};

/* Takes the proof over. Texts are copied. */
int  verify_new(struct ox_env *env, struct log *log, const struct verify_conf *conf,
                struct proof **proof, struct verify **out, struct err *err);
void verify_free(struct verify *); /* stops it first; NULL is fine */

int  verify_start(struct verify *, struct err *err);
void verify_stop(struct verify *);

void        verify_get_status(struct verify *, struct verify_status *out);
const char *verify_state_name(enum verify_state state);
const char *verify_stream(const struct verify *); /* where messages come in */

/*
 * For whoever takes messages in (HTTP, queues): one message {"id","stream","type","data",
 * "metadata","token"} as the event to append to verify_stream(); *target: the stream that it is
 * for. Slices are of `text`, which is appended to. ERR_DATA: what is wrong with it.
 */
int verify_message(struct slice message, struct buf *text, struct log_new_event *out,
                   struct slice *target, struct err *err);

#endif
