/* Lines from stdin, for the commands that take them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ndjson.h"
#include "cli/cli_int.h"

#define PIECE_BYTES (256U << 10)

int
clii_each_line(size_t longest, clii_line_fn *take, void *arg, struct err *err)
{
    struct ndjson n;
    struct slice  line;
    uint8_t      *piece = malloc(PIECE_BYTES);
    uint64_t      number;
    ssize_t       got = 1;
    int           rc = 0;

    ndjson_init(&n, longest);
    if (piece == NULL)
        FAIL(err, E_NOMEM, ERR_RETRY, "out of memory");
    while (got > 0) {
        do {
            TRY(clii_go_on(err));
            got = read(STDIN_FILENO, piece, PIECE_BYTES);
        } while (got < 0 && errno == EINTR);
        if (got < 0)
            FAIL(err, E_IO, ERR_FATAL, "stdin: %s", strerror(errno));
        if (got == 0)
            ndjson_finish(&n);
        else
            ndjson_feed(&n, slice_of(piece, (size_t)got));
        while ((rc = ndjson_next(&n, &line, &number, err)) == 0)
            TRY(take(arg, line, number, err));
        if (rc != E_END)
            goto out;
    }
    rc = 0;
out:
    ndjson_fini(&n);
    free(piece);
    return rc;
}
