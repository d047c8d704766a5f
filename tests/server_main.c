/*
 * A server over a log in a folder, without the command line: for tests and
 * measurements. Prints its port; ends by SIGTERM.
 *
 * usage: server_main FOLDER [PORT [CONNECTIONS]]
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/say.h"
#include "env/env_real.h"
#include "log/index.h"
#include "log/log.h"
#include "server/server.h"

int
main(int argc, char **argv)
{
    struct log_conf    conf = {.index = &log_index_lmdb};
    struct server_conf server_conf = {.signals = true};
    struct server     *server = NULL;
    struct log        *log = NULL;
    struct rlimit      files;
    struct err         err;
    int                rc = 0;

    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20); /* as `oxbow serve` does */
    if (argc < 2) {
        (void)fprintf(stderr, "usage: server_main FOLDER [PORT [CONNECTIONS]]\n");
        return 2;
    }
    if (argc > 2)
        server_conf.port = (uint16_t)strtoul(argv[2], NULL, 10);
    if (argc > 3)
        server_conf.connections_max = (uint32_t)strtoul(argv[3], NULL, 10);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) { /* as `oxbow` does */
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    say_init(env_real(), SAY_INFO);
    TRY(log_open(env_real(), argv[1], &conf, NULL, &log, &err));
    TRY(server_new(env_real(), log, &server_conf, &server, &err));
    (void)printf("%u\n", (unsigned)server_port(server));
    (void)fflush(stdout);
    TRY(server_run(server, &err));
out:
    if (rc != 0)
        say(SAY_ERROR, err.text, NULL);
    server_free(server);
    log_close(log);
    return rc != 0;
}
