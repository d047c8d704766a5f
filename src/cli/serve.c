/* oxbow serve: the log behind the network front, until a signal comes. */
#include "base/json.h"
#include "base/say.h"
#include "cli/cli_int.h"
#include "env/env_real.h"
#include "log/log.h"
#include "server/server.h"

#define HOST_BYTES 256

/* "HOST:PORT", ":PORT", "[::1]:PORT". */
static int
read_listen(const char *text, char host[HOST_BYTES], uint16_t *port, struct err *err)
{
    const char *colon = strrchr(text, ':');
    uint64_t    number;
    size_t      len;

    if (colon == NULL || !json_uint64(slice_str(colon + 1), &number) || number > UINT16_MAX)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "--listen %s: must be HOST:PORT", text);
    len = (size_t)(colon - text);
    if (len > 1 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    if (len >= HOST_BYTES)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "--listen: the host's name is too long");
    memcpy(host, text, len);
    host[len] = '\0';
    *port = (uint16_t)number;
    return 0;
}

int
clii_serve(struct cli *c, struct err *err)
{
    struct server_conf conf = {.port = SERVER_PORT, .signals = true};
    struct server     *server = NULL;
    struct log        *log = NULL;
    struct say_num     num;
    char               host[HOST_BYTES] = "";
    int                rc = 0;

    TRY(clii_need_folder(c, err));
    if (c->opt[OPT_LISTEN] != NULL)
        TRY(read_listen(c->opt[OPT_LISTEN], host, &conf.port, err));
    if (host[0] != '\0')
        conf.host = host;
    say_init(env_real(), SAY_INFO);
    c->opening = true;
    TRY(clii_log_open(c, true, &log, err));
    TRY(server_new(env_real(), log, &conf, &server, err));
    c->opening = false;
    say(SAY_INFO, "serving", "data", clii_data(c), "host", conf.host == NULL ? "127.0.0.1" : host,
        "port", say_u64(&num, server_port(server)), NULL);
    TRY(server_run(server, err));
out:
    server_free(server);
    log_close(log);
    return rc;
}
