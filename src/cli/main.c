/*
 * oxbow: one binary for everything. Takes the command line apart, runs one
 * command, and turns its error into one line and an exit status.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/must.h"
#include "cli/cli_int.h"

static int
status_of(const struct cli *c, const struct err *err)
{
    if (err->code == E_USAGE)
        return CLI_USAGE;
    if (c->opening)
        return CLI_UNREACHABLE;
    switch (err->code) {
    case E_IO:
    case E_CONNECT:
    case E_TIMEOUT:
    case E_CLOSED:
        return CLI_UNREACHABLE;
    default:
        return CLI_REFUSED;
    }
}

/* One line, whatever is in the text. */
static void
say_error(const struct cli *c, const struct err *err)
{
    struct buf line = {0};

    buf_add_str(&line, "oxbow: ");
    if (c->command != NULL && err->code != E_USAGE) {
        buf_add_str(&line, c->command->name);
        buf_add_str(&line, ": ");
    }
    clii_add_plain(&line, slice_str(err->text));
    buf_add_byte(&line, '\n');
    if (!line.failed)
        (void)!write(STDERR_FILENO, line.data, line.len);
    buf_fini(&line);
}

static int
run(struct cli *c, int argc, char **argv, const char **words, struct err *err)
{
    int rc = 0;

    TRY(clii_parse(c, argc, argv, words, err));
    if (c->opt[OPT_VERSION] != NULL)
        clii_printf(c, "oxbow %s\n", OX_VERSION);
    else if (c->opt[OPT_HELP] != NULL || c->command == NULL)
        clii_help(c);
    else
        TRY(c->command->run(c, err));
    TRY(clii_flush(c, err));
out:
    return rc;
}

/* A log has a file open for each of its segments, a server one for each connection. */
static void
raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit); /* where it is refused the old limit holds */
}

int
main(int argc, char **argv)
{
    struct cli   c = {0};
    struct err   err = {0};
    const char **words = calloc((size_t)argc + 1, sizeof *words);
    int          rc, status = CLI_DONE;

    if (words == NULL)
        return CLI_UNREACHABLE;
    c.out_tty = isatty(STDOUT_FILENO) == 1;
    c.err_tty = isatty(STDERR_FILENO) == 1;
    clii_catch();
    raise_file_limit();
    rc = run(&c, argc, argv, words, &err);
    clii_progress_end(&c);
    if (rc != 0) {
        struct err none;

        status = status_of(&c, &err);
        (void)clii_flush(&c, &none);
        if (err.code != E_INTERRUPTED)
            say_error(&c, &err);
    }
    buf_fini(&c.out);
    free(words);
    if (c.out_closed)
        clii_reraise(SIGPIPE);
    if (rc != 0 && clii_caught() != 0)
        clii_reraise(clii_caught());
    return status;
}
