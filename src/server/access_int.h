/*
 * Inside src/server only: who asks (auth.c), and what they may do (access.c), which every path
 * asks. All on the loop. Where nobody has to say who he is everything is allowed.
 */
#ifndef OX_SERVER_ACCESS_INT_H
#define OX_SERVER_ACCESS_INT_H

#include "server/server_int.h"
#include "user/user.h"

struct log_event;
struct log_req;
struct rpc;

/* What a route or a method asks for, before anything else is looked at. */
enum access_need {
    ACCESS_UNDECIDED,   /* nobody thought of it: as ACCESS_ADMIN */
    ACCESS_OPEN,        /* nothing */
    ACCESS_USER,        /* a user; what he may do is decided by what he asks for */
    ACCESS_OPS,         /* ops or admin */
    ACCESS_ADMIN,       /* admin */
    ACCESS_SELF,        /* the user that the path names, or admin */
    ACCESS_ALL,         /* who may read everything */
    ACCESS_GROUP,       /* who may read what {stream} names for a group */
    ACCESS_STREAM_READ, /* those on {stream}: enum access_right */
    ACCESS_STREAM_WRITE,
    ACCESS_STREAM_META_READ,
};

/* As $acl has them: $r, $w, $d, $mr, $mw. */
enum access_right {
    ACCESS_READ,
    ACCESS_WRITE,
    ACCESS_DELETE,
    ACCESS_META_READ,
    ACCESS_META_WRITE,
    ACCESS_RIGHTS,
};

/* Its last event has what decides where no $acl and no permission does. */
#define ACCESS_SETTINGS "$settings"

enum access_need serveri_access_need(const char *method, const char *path);
enum access_need serveri_access_need_grpc(struct slice path);

/* Does anybody have to say who he is? */
bool serveri_access_on(const struct server *s);

/* `who` NULL: said nothing. */
bool
serveri_may(struct server *s, const struct user *who, enum access_right right, struct slice stream);
/* Whatever stands in the log's streams but the system's own. */
bool serveri_may_read_all(struct server *s, const struct user *who);
/* A stream, or what a group may have instead: $all, $ce-NAME, $et-NAME. */
bool serveri_may_follow(struct server *s, const struct user *who, struct slice source);
/* The event, and the link that led to it. */
bool serveri_may_see(struct server *s, const struct user *who, const struct log_event *e);
/* All that a commit does. E_AUTH. */
int  serveri_may_commit(struct server *s, const struct user *who, const struct log_req *req,
                        struct err *err);
bool serveri_may_do(const struct server *s, const struct user *who, enum access_need need);
/* E_AUTH: "user … may not …". */
int serveri_access_refuse(struct server *s, const struct user *who, const char *what,
                          struct slice stream, struct err *err);

/* The log has taken it: metadata may have changed. */
void serveri_access_note(struct server *s, const struct log_req *req);
void serveri_access_free(struct server *s);

/* False: the call was answered. */
bool serveri_access_route(struct call *call);

/* auth.c */

/* `header` as "Basic …" or "Bearer …"; *who is the caller's. */
enum auth_result serveri_auth(struct server *s, struct slice header, const struct address *from,
                              struct user **who, struct auth_waiter *waiter);
void             serveri_auth_free(struct server *s);

/* Finds out who asks. False: answered, or serveri_call_go_on comes when it is known. */
bool serveri_auth_call(struct call *call);

/* rate.c: false: he asks too often. */
bool serveri_rate_take(struct server *s, const struct address *from, const struct user *who);
void serveri_rate_free(struct server *s);

/* h2_conn.c: whose call it is; NULL: nobody's. */
struct user *grpci_who(const struct rpc *r);

/* audit.c: what is kept of who did what; `target` may be empty. */
void serveri_audit(struct server *s, const char *type, const struct address *from, struct slice who,
                   struct slice action, struct slice target);
void serveri_audit_free(struct server *s);

#endif
