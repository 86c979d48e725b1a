// worker: a web-ish worker. It answers HTTP/1.1 requests that come on stdin, one after the other, on stdout.
//
//     printf 'GET /echo/hi HTTP/1.1\r\n\r\n' | worker
//
//     GET /             a greeting and how many requests this worker has had
//     GET /echo/TEXT    TEXT, as it stands in the path
//     GET /env/NAME     the environment variable, or 404
//     GET /exit/N       answers, then ends with exit code N
//
// The connection is kept until stdin ends or a request says `Connection: close`. A request's body is read
// and dropped. What is no request is answered with 400, and the worker ends with exit code 1.

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static char line[8 * 1024];

struct request {
    char method[16];
    char path[4 * 1024];
    bool close;
};

static void answer(const char *status, const char *body) {
    printf("HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(body), body);
    fflush(stdout);
}

// The next line without its end; false when stdin has ended or the line is longer than a line may be.
static bool read_line(void) {
    if (fgets(line, sizeof line, stdin) == NULL) return false;
    size_t length = strcspn(line, "\r\n");
    bool whole = line[length] != '\0';
    line[length] = '\0';
    return whole;
}

// What stands after `Name:` when that is the header in `line`, else NULL.
static const char *header(const char *name) {
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0 || line[length] != ':') return NULL;
    return line + length + 1 + strspn(line + length + 1, " \t");
}

// Reads the headers and drops the body. False when either is cut short.
static bool read_rest(struct request *request) {
    unsigned long body = 0;
    for (;;) {
        if (!read_line()) return false;
        if (line[0] == '\0') break;
        const char *value = header("content-length");
        if (value != NULL) body = strtoul(value, NULL, 10);
        value = header("connection");
        if (value != NULL && strcasecmp(value, "close") == 0) request->close = true;
    }
    while (body > 0 && getchar() != EOF) body--;
    return body == 0;
}

static bool read_request(struct request *request) {
    char version[16];
    *request = (struct request){0};
    return sscanf(line, "%15s %4095s %15s", request->method, request->path, version) == 3 &&
           request->path[0] == '/' && strncmp(version, "HTTP/1.", 7) == 0 && read_rest(request);
}

// What follows the prefix in the path, or NULL when the path does not begin with it.
static const char *after(const char *path, const char *prefix) {
    size_t length = strlen(prefix);
    return strncmp(path, prefix, length) == 0 ? path + length : NULL;
}

static void greet(unsigned count) {
    char body[64];
    snprintf(body, sizeof body, "Hello from a worker! This is request %u.\n", count);
    answer("200 OK", body);
}

static void tell_variable(const char *name) {
    const char *value = getenv(name);
    if (value == NULL) answer("404 Not Found", "no such variable\n");
    else answer("200 OK", value);
}

static void route(const struct request *request, unsigned count) {
    const char *rest;
    if (strcmp(request->method, "GET") != 0) {
        answer("405 Method Not Allowed", "only GET\n");
    } else if (strcmp(request->path, "/") == 0) {
        greet(count);
    } else if ((rest = after(request->path, "/echo/")) != NULL) {
        answer("200 OK", rest);
    } else if ((rest = after(request->path, "/env/")) != NULL) {
        tell_variable(rest);
    } else if ((rest = after(request->path, "/exit/")) != NULL) {
        answer("200 OK", "bye\n");
        exit(atoi(rest));
    } else {
        answer("404 Not Found", "no such path\n");
    }
}

int main(void) {
    static struct request request;
    for (unsigned count = 1; read_line(); count++) {
        if (!read_request(&request)) {
            answer("400 Bad Request", "not a request\n");
            return 1;
        }
        route(&request, count);
        if (request.close) break;
    }
    return 0;
}
