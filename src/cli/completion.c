/* oxbow completion bash|zsh: a script made of the tables of commands and options. */
#include <stdio.h>
#include <string.h>

#include "cli/cli_int.h"

static void
put_options(struct cli *c, uint64_t opts)
{
    for (unsigned i = 0; i < OPT_COUNT; i++)
        if (opts & CLI_HAS(i))
            clii_printf(c, " --%s", clii_options[i].name);
}

/* The first words, each once. */
static void
put_firsts(struct cli *c)
{
    const char *last = "";

    for (const struct cli_command *k = clii_commands; k->name != NULL; k++) {
        size_t len = strcspn(k->name, " ");

        if (strncmp(last, k->name, len) != 0 || last[len] != ' ')
            clii_printf(c, " %.*s", (int)len, k->name);
        last = k->name;
    }
}

static void
put_cases(struct cli *c)
{
    for (const struct cli_command *k = clii_commands; k->name != NULL; k++) {
        const char *space = strchr(k->name, ' ');
        size_t      len = strcspn(k->name, " ");

        clii_printf(c, space == NULL ? "    '%s '*) words=\"" : "    '%s') words=\"", k->name);
        put_options(c, k->opts | CLI_COMMON);
        clii_put_str(c, "\" ;;\n");
        if (space == NULL || (k > clii_commands && strncmp(k[-1].name, k->name, len + 1) == 0))
            continue;
        clii_printf(c, "    '%.*s '*) words=\"", (int)len, k->name);
        for (const struct cli_command *x = k;
             x->name != NULL && strncmp(x->name, k->name, len + 1) == 0; x++)
            clii_printf(c, " %s", x->name + len + 1);
        clii_put_str(c, "\" ;;\n");
    }
}

int
clii_completion(struct cli *c, struct err *err)
{
    bool zsh = strcmp(c->args[0], "zsh") == 0;

    if (!zsh && strcmp(c->args[0], "bash") != 0)
        RETURN_ERR(err, E_USAGE, ERR_DATA, "completion: %s: must be bash or zsh", c->args[0]);
    if (zsh)
        clii_put_str(c, "autoload -U +X bashcompinit && bashcompinit\n");
    clii_put_str(c, "_oxbow() {\n"
                    "  local current=${COMP_WORDS[COMP_CWORD]} words=\n"
                    "  COMPREPLY=()\n"
                    "  if [ \"$COMP_CWORD\" = 1 ]; then\n    words=\"");
    put_firsts(c);
    clii_put_str(c, "\"\n  else case \"${COMP_WORDS[1]} ${COMP_WORDS[2]}\" in\n");
    put_cases(c);
    clii_put_str(c, "  esac; fi\n"
                    "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
                    "}\n"
                    "complete -o default -F _oxbow oxbow\n");
    return 0;
}
