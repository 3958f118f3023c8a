/* uWebSockets as a peer to measure against, speaking the verbatim dialect of fanwire-loadtest:
 * "SUB" subscribes and answers "OK", a text that starts with "ECHO" is sent back, any other text goes to all
 * subscribers as it is. Usage: uws [-t CERTIFICATE KEY] [-c shared|dedicated] PORT
 * With -t it speaks TLS. With -c it offers permessage-deflate, with one compressor for all connections or one of
 * 256 KiB for each, and compresses what goes to all subscribers.
 *
 * The library is the one inside the PyPI package socketify; only its C interface is used, so nothing of Python
 * runs. Its event loop is libuv over epoll. Declared here is just what this program calls: the library ships no
 * header, so the layouts follow what it exports in this version (socketify 0.0.31), and setup.sh pins it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct uws_app uws_app;
typedef struct uws_socket uws_socket;

struct tls_options {
    const char *text[6];
    int prefer_low_memory;
};

enum compressor { NONE = 0, SHARED = 1, DEDICATED = 15 << 4 | 8, SHARED_DECOMPRESSOR = 1 << 8 };

enum opcode { TEXT = 1, BINARY = 2 };

/* Handlers this program leaves out are null pointers of one common type: only their place matters. */
typedef void (*any_handler)(void);
typedef void (*message_handler)(uws_socket *, const char *, size_t, int opcode, void *user);

struct behavior {
    int compression;
    unsigned int payload_bytes_max;
    unsigned short idle_timeout_s;
    unsigned int backpressure_bytes_max;
    bool close_on_backpressure;
    bool reset_idle_timeout_on_send;
    bool send_pings;
    unsigned short lifetime_min_max;
    any_handler upgrade;
    any_handler open;
    message_handler message;
    any_handler drain;
    any_handler ping;
    any_handler pong;
    any_handler close;
    any_handler subscription;
};

struct listen_config {
    int port;
    const char *host;
    int options;
};

typedef void (*listen_handler)(void *listener, struct listen_config, void *user);

uws_app *uws_create_app(int tls, struct tls_options);
void uws_ws(int tls, uws_app *, const char *pattern, struct behavior, void *user);
void uws_app_listen_with_config(int tls, uws_app *, struct listen_config, listen_handler, void *user);
void uws_app_run(int tls, uws_app *);
bool uws_publish(int tls, uws_app *, const char *topic, size_t, const char *message, size_t, int opcode, bool compress);
int uws_ws_send(int tls, uws_socket *, const char *message, size_t, int opcode);
bool uws_ws_subscribe(int tls, uws_socket *, const char *topic, size_t);

static const char topic[] = "bench";
static int tls;
static int compressor = NONE;

static void on_message(uws_socket *socket, const char *text, size_t length, int opcode, void *user)
{
    if (length == 3 && memcmp(text, "SUB", 3) == 0) {
        uws_ws_subscribe(tls, socket, topic, sizeof topic - 1);
        uws_ws_send(tls, socket, "OK", 2, TEXT);
    } else if (length >= 4 && memcmp(text, "ECHO", 4) == 0) {
        uws_ws_send(tls, socket, text, length, opcode);
    } else {
        uws_publish(tls, user, topic, sizeof topic - 1, text, length, opcode, compressor != NONE);
    }
}

static void on_listen(void *listener, struct listen_config config, void *user)
{
    (void)user;
    if (!listener) {
        fprintf(stderr, "uws: cannot listen on 127.0.0.1:%d\n", config.port);
        exit(1);
    }
    printf("listening\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct tls_options options = {0};
    int at = 1;
    if (argc > at + 2 && strcmp(argv[at], "-t") == 0) {
        tls = 1;
        options.text[0] = argv[at + 2];
        options.text[1] = argv[at + 1];
        at += 3;
    }
    if (argc > at + 1 && strcmp(argv[at], "-c") == 0) {
        compressor = SHARED_DECOMPRESSOR | (strcmp(argv[at + 1], "shared") == 0 ? SHARED : DEDICATED);
        at += 2;
    }
    if (argc != at + 1) {
        fprintf(stderr, "usage: uws [-t CERTIFICATE KEY] [-c shared|dedicated] PORT\n");
        return 2;
    }
    uws_app *app = uws_create_app(tls, options);
    if (!app) {
        fprintf(stderr, "uws: cannot create the application\n");
        return 1;
    }
    /* Idle timeout with automatic pings is the library's own default. The back-pressure limit is raised so that
     * no frame is dropped: a drop would make the peer look cheaper than it is. */
    struct behavior behavior = {
        .compression = compressor,
        .payload_bytes_max = 1 << 20,
        .idle_timeout_s = 120,
        .backpressure_bytes_max = 16 << 20,
        .send_pings = true,
        .message = on_message,
    };
    uws_ws(tls, app, "/*", behavior, app);
    uws_app_listen_with_config(tls, app, (struct listen_config){atoi(argv[at]), "127.0.0.1", 0}, on_listen, NULL);
    uws_app_run(tls, app);
    return 0;
}
