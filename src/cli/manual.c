/* oxbow manual: the manual page, made of the tables of commands and options. */
#include <string.h>

#include "cli/cli_int.h"

/* As text: nothing in it is an instruction to roff. */
static void
put_text(struct cli *c, const char *text)
{
    bool begins = true;

    for (; *text != '\0'; text++) {
        if (begins && (*text == '.' || *text == '\''))
            clii_put_str(c, "\\&");
        if (*text == '\\')
            clii_put_str(c, "\\e");
        else if (*text == '-')
            clii_put_str(c, "\\-");
        else
            clii_printf(c, "%c", *text);
        begins = *text == '\n';
    }
}

static void
put_heading(struct cli *c, const char *macro, const char *first, const char *second)
{
    clii_printf(c, "%s \"", macro);
    put_text(c, first);
    if (second[0] != '\0')
        clii_put_str(c, " ");
    put_text(c, second);
    clii_put_str(c, "\"\n");
}

static void
put_options(struct cli *c, uint64_t which)
{
    for (unsigned i = 0; i < OPT_COUNT; i++) {
        const struct cli_option *o = &clii_options[i];

        if ((which & CLI_HAS(i)) == 0)
            continue;
        clii_put_str(c, ".TP\n\\fB");
        if (o->letter != 0)
            clii_printf(c, "\\-%c\\fR, \\fB", o->letter);
        put_text(c, "--");
        put_text(c, o->name);
        clii_put_str(c, "\\fR");
        if (o->value != NULL) {
            clii_put_str(c, " \\fI");
            put_text(c, o->value);
            clii_put_str(c, "\\fR");
        }
        clii_put_str(c, "\n");
        put_text(c, o->doc);
        clii_put_str(c, "\n");
    }
}

static void
put_command(struct cli *c, const struct cli_command *k)
{
    put_heading(c, ".SS", k->name, k->args);
    put_text(c, k->doc);
    clii_put_str(c, ".\n");
    if (k->more != NULL) {
        clii_put_str(c, ".PP\n.nf\n");
        put_text(c, k->more);
        clii_put_str(c, "\n.fi\n");
    }
    put_options(c, k->opts & ~(uint64_t)CLI_COMMON);
}

int
clii_manual(struct cli *c, struct err *err)
{
    static const char *const environment[][2] = {
        {"OXBOW_DATA", "the data folder, where --data does not name one"},
        {"OXBOW_SERVER", "a running server, where neither --server nor --data is given"},
        {"OXBOW_KEYS", "the keystore of subjects"},
        {"OXBOW_KEYS_MASTER", "64 hexadecimal digits: the secret that wraps their keys"},
        {"OXBOW_CA", "a file of certificates that vouch for a server (the system's)"},
        {"OXBOW_CERT", "our own certificate"},
        {"OXBOW_KEY", "its private key"},
    };

    (void)err;
    clii_printf(c, ".TH OXBOW 1 \"\" \"oxbow %s\" \"User Commands\"\n", OX_VERSION);
    clii_put_str(c, ".SH NAME\noxbow \\- durable event log that captures, keeps and delivers "
                    "changes\n.SH SYNOPSIS\n.B oxbow\n\\fICOMMAND\\fR [\\fIoptions\\fR]\n"
                    ".SH DESCRIPTION\nCommands work on a data folder, or with\n.B \\-\\-server\n"
                    "on a running server.\n.B oxbow serve\nis that server.\n.SH COMMANDS\n");
    for (const struct cli_command *k = clii_commands; k->name != NULL; k++)
        put_command(c, k);
    clii_put_str(c, ".SH OPTIONS\nOf every command:\n");
    put_options(c, CLI_COMMON);
    clii_put_str(c, ".SH ENVIRONMENT\n");
    for (size_t i = 0; i < sizeof environment / sizeof environment[0]; i++) {
        clii_printf(c, ".TP\n.B %s\n", environment[i][0]);
        put_text(c, environment[i][1]);
        clii_put_str(c, "\n");
    }
    clii_put_str(c, ".SH EXIT STATUS\n.TP\n.B 0\ndone\n.TP\n.B 1\nrefused\n.TP\n.B 2\nusage\n"
                    ".TP\n.B 3\ncannot reach or open\n");
    return 0;
}
