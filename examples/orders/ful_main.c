/* The fulfilment service's command line. Runs until SIGTERM or SIGINT. */
#include "ful.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: fulfilment --db FILE [--port N] [--port-file FILE] [--migrator NAME]\n"
    "                  [--keep-changes N]\n"
    "\n"
    "Serves the fulfilment part of orders over HTTP on 127.0.0.1.\n"
    "  --db FILE          its SQLite database, made when it is not there\n"
    "  --port N           0 (the default) takes a free one; printed as `listening PORT`\n"
    "  --port-file FILE   also written there, once it listens\n"
    "  --migrator NAME    whose origin mark passes while the authority is elsewhere (oxbow)\n"
    "  --keep-changes N   keep only the last N changes in the feed (0, the default: all)\n";

struct options {
    const char *db, *port_file, *migrator;
    int64_t     port, keep_changes;
};

static bool
parse_options(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i];
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (value == NULL)
            return false;
        if (strcmp(name, "--db") == 0)
            o->db = value;
        else if (strcmp(name, "--port-file") == 0)
            o->port_file = value;
        else if (strcmp(name, "--migrator") == 0 && *value != '\0')
            o->migrator = value;
        else if (strcmp(name, "--port") == 0 && parse_int(value, 0, 65535, &o->port))
            continue;
        else if (strcmp(name, "--keep-changes") == 0 &&
                 parse_int(value, 0, INT64_MAX, &o->keep_changes))
            continue;
        else
            return false;
    }
    return o->db != NULL;
}

static int
serve(const struct options *o, const sigset_t *stop)
{
    struct ful_store *store = ful_store_open(o->db, o->migrator, o->keep_changes);
    struct ful_http  *http = NULL;
    uint16_t          port = 0;
    char              text[16];
    int               sig;
    int               rc = 3;

    if (store == NULL)
        goto out;
    http = ful_http_start(store, (uint16_t)o->port, &port);
    if (http == NULL)
        goto out;
    (void)snprintf(text, sizeof(text), "%u\n", port);
    if (o->port_file != NULL && file_replace(o->port_file, text) != 0)
        goto out;
    (void)printf("listening %s", text);
    (void)fflush(stdout);
    (void)sigwait(stop, &sig);
    rc = 0;
out:
    if (store != NULL)
        ful_store_wake(store);
    ful_http_stop(http);
    ful_store_close(store);
    return rc;
}

int
main(int argc, char **argv)
{
    struct options o = {.migrator = "oxbow"};
    sigset_t       stop;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        (void)fputs(usage, stdout);
        return 0;
    }
    if (!parse_options(argc, argv, &o)) {
        (void)fputs(usage, stderr);
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&stop);
    (void)sigaddset(&stop, SIGTERM);
    (void)sigaddset(&stop, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &stop, NULL);
    json_object_seed(0);
    return serve(&o, &stop);
}
