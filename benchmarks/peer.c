/* The sender and the receiver that every peer is measured against, as close to the loopback's limit as is simple.
 *
 * DICOM upper layer and DIMSE bytes by PS3.8 9.3 and PS3.7 chapter 6, 9; just what a benchmark needs, for trusted peers.
 *
 *   peer send  PORT key=value...   associations of its own, one thread, one epoll; results as one JSON line
 *   peer gather key=value...       accepts everything, gathers each data set into one buffer, answers
 *
 * The sender's data is built beforehand, and only the SOP Instance UID changes; a message is one writev. It acknowledges
 * at once (TCP_QUICKACK), so that a peer with Nagle's algorithm on is measured at its work and not at the kernel's 40 ms
 * timer. Both sides end at EOF of stdin. With OpenSSL (-DTLS) the sender has mode=tls: a blocking process for each
 * association.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#define SSL_read(ssl, p, n) (-1)
#define SSL_write(ssl, p, n) (-1)
#endif

typedef uint8_t u8;

#define CT "1.2.840.10008.5.1.4.1.1.2"
#define VERIFICATION "1.2.840.10008.1.1"
#define EXPLICIT "1.2.840.10008.1.2.1"
#define APPLICATION "1.2.840.10008.3.1.1.1"
#define NO_UID "2.25.100000000000000000000"
#define UID_LENGTH 26
#define IMPLEMENTATION "2.25.204381762994180371829184756102938475610"

static void die(const char *what) {
    fprintf(stderr, "peer: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static const char *option(int argc, char **argv, const char *name, const char *otherwise) {
    size_t n = strlen(name);
    for (int i = 2; i < argc; i++)
        if (!strncmp(argv[i], name, n) && argv[i][n] == '=') return argv[i] + n + 1;
    return otherwise;
}
static double number(int argc, char **argv, const char *name, double otherwise) {
    const char *text = option(argc, argv, name, NULL);
    return text ? atof(text) : otherwise;
}

/* Bytes */

static u8 *be(u8 *p, uint32_t value, int n) {
    for (int i = n - 1; i >= 0; i--) *p++ = value >> (8 * i);
    return p;
}
static uint32_t get_be(const u8 *p, int n) {
    uint32_t value = 0;
    while (n--) value = value << 8 | *p++;
    return value;
}
static u8 *le(u8 *p, uint32_t value, int n) {
    for (int i = 0; i < n; i++) *p++ = value >> (8 * i);
    return p;
}
static uint32_t get_le(const u8 *p, int n) {
    uint32_t value = 0;
    while (n--) value = value << 8 | p[n];
    return value;
}
static u8 *item(u8 *p, int type, const void *value, int n) {
    *p++ = type, *p++ = 0;
    p = be(p, n, 2);
    memcpy(p, value, n);
    return p + n;
}
static u8 *element(u8 *p, int number, const void *value, int n) { /* of a command set: implicit VR little endian */
    p = le(p, 0, 2), p = le(p, number, 2), p = le(p, n + n % 2, 4);
    memcpy(p, value, n);
    if (n % 2) p[n++] = 0;
    return p + n;
}
static u8 *element_us(u8 *p, int number, int value) {
    u8 bytes[2] = {value & 255, value >> 8};
    return element(p, number, bytes, 2);
}
static const u8 *find(const u8 *p, int n, int number, int *length) {
    for (const u8 *end = p + n; end - p >= 8;) {
        uint32_t size = get_le(p + 4, 4);
        if (size > (size_t)(end - p - 8)) break;
        if (get_le(p + 2, 2) == (uint32_t)number && (!length || (*length = size, 1))) return p + 8;
        p += 8 + size;
    }
    return NULL;
}
static u8 *head(u8 *p, int context, int control, size_t n) { /* of a P-DATA-TF with one PDV */
    *p++ = 4, *p++ = 0;
    p = be(p, n + 6, 4), p = be(p, n + 2, 4);
    *p++ = context, *p++ = control;
    return p;
}
static int command_pdu(u8 *pdu, int context, const u8 *elements, int n) {
    u8 *p = head(pdu, context, 3, n + 12), size[4];
    le(size, n, 4);
    p = element(p, 0, size, 4);
    memcpy(p, elements, n);
    return p + n - pdu;
}

/* Sending */

enum { ASSOCIATING, OPEN, DONE };

struct association {
    int fd, id, in_message, outstanding, blocked;
    SSL *ssl; /* NULL without TLS */
    uint32_t fragment;
    int command_length, segment;
    size_t offset;
    u8 command[512], *uid, *message_id;
    u8 in[65536];
    size_t in_length;
};
static struct { const u8 *data; size_t length; } segments[65536];
static int segment_count;
static int port, echo;
static double size;
static u8 *data_uid; /* in the first segment */
static long run; /* makes SOP Instance UIDs differ from those of other runs */
static uint32_t pdu_length;
static long counter, started, finished, limit, failures;
static double deadline;
static char **files;
static int file_count, epoll;

static int open_socket(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    struct timeval limit = {60, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}
static void write_all(int fd, const u8 *p, size_t n) {
    while (n) {
        ssize_t got = write(fd, p, n);
        if (got <= 0) die("write");
        p += got, n -= got;
    }
}
#ifdef TLS
static SSL_CTX *tls;
static SSL *handshake(int fd) {
    SSL *ssl = SSL_new(tls);
    if (!ssl || !SSL_set_fd(ssl, fd) || SSL_connect(ssl) != 1) {
        ERR_print_errors_fp(stderr);
        die("TLS handshake");
    }
    return ssl;
}
#endif
static ssize_t get(struct association *a, void *p, size_t n) { return a->ssl ? SSL_read(a->ssl, p, n) : read(a->fd, p, n); }
static void get_all(struct association *a, u8 *p, size_t n) {
    while (n) {
        ssize_t got = get(a, p, n);
        if (got <= 0) die("read");
        p += got, n -= got;
    }
}
static void put_all(struct association *a, const u8 *p, size_t n) {
    if (!a->ssl) write_all(a->fd, p, n);
    else
        for (size_t piece; n; p += piece, n -= piece) {
            piece = n < (1 << 30) ? n : 1 << 30;
            if (SSL_write(a->ssl, p, piece) != (int)piece) die("SSL_write");
        }
}
static void associate(struct association *a) {
    u8 pdu[1024], sub[256], answer[65536], *p, *q;
    memset(pdu, 0, sizeof pdu);
    a->fd = open_socket();
#ifdef TLS
    if (tls) a->ssl = handshake(a->fd);
#endif
    pdu[0] = 1, pdu[7] = 1;
    memcpy(pdu + 10, "ANY-SCP         BENCHMARK       ", 32);
    p = item(pdu + 74, 0x10, APPLICATION, strlen(APPLICATION));
    const char *abstract = echo ? VERIFICATION : CT;
    memcpy(sub, "\1\0\0\0", 4);
    q = item(sub + 4, 0x30, abstract, strlen(abstract));
    q = item(q, 0x40, EXPLICIT, strlen(EXPLICIT));
    p = item(p, 0x20, sub, q - sub);
    u8 length[4];
    be(length, 16384, 4);
    q = item(sub, 0x51, length, 4);
    q = item(q, 0x52, IMPLEMENTATION, strlen(IMPLEMENTATION));
    p = item(p, 0x50, sub, q - sub);
    be(pdu + 2, p - pdu - 6, 4);
    put_all(a, pdu, p - pdu);
    get_all(a, answer, 6);
    uint32_t n = get_be(answer + 2, 4);
    errno = 0;
    if (answer[0] != 2 || n > sizeof answer) die("the association was not accepted");
    get_all(a, answer, n);
    uint32_t maximum = 16384;
    for (u8 *end = answer + n, *i = answer + 68; end - i >= 4; i += 4 + get_be(i + 2, 2)) {
        if (*i == 0x21 && i[6]) die("the context was not accepted");
        if (*i == 0x50)
            for (u8 *s = i + 4; s < i + 4 + get_be(i + 2, 2); s += 4 + get_be(s + 2, 2))
                if (*s == 0x51) maximum = get_be(s + 4, 4);
    }
    if (!maximum || maximum > pdu_length) maximum = pdu_length;
    a->fragment = (maximum - 6) & ~1u;
    u8 elements[512], *e = elements;
    e = element(e, 0x0002, abstract, strlen(abstract));
    e = element_us(e, 0x0100, echo ? 0x30 : 1);
    e = element_us(e, 0x0110, 1);
    if (!echo) e = element_us(e, 0x0700, 0);
    e = element_us(e, 0x0800, echo ? 0x0101 : 0);
    if (!echo) e = element(e, 0x1000, NO_UID, UID_LENGTH);
    a->command_length = command_pdu(a->command, 1, elements, e - elements);
    a->message_id = (u8 *)find(a->command + 12, a->command_length - 12, 0x0110, NULL);
    a->uid = echo ? NULL : (u8 *)find(a->command + 12, a->command_length - 12, 0x1000, NULL);
}
static u8 *text(u8 *p, int group, int number, const char *vr, const char *value) { /* of even length, explicit VR */
    int n = strlen(value);
    p = le(le(p, group, 2), number, 2), memcpy(p, vr, 2), p = le(p + 2, n, 2);
    memcpy(p, value, n);
    return p + n;
}
static void header(u8 *start) { /* the data set's first elements, explicit VR little endian; pixel data follows */
    u8 *p = le(start, 0x00160008, 4);
    memcpy(p, "UI", 2), p = le(p + 2, 26, 2), memcpy(p, CT "\0", 26), p += 26;
    p = text(p, 0x0008, 0x0018, "UI", NO_UID), data_uid = p - UID_LENGTH;
    p = text(p, 0x0010, 0x0020, "LO", "BENCHMARK1");
    char uid[32];
    snprintf(uid, sizeof uid, "2.25.3%06ld", run);
    p = text(p, 0x0020, 0x000D, "UI", uid);
    p = text(p, 0x0020, 0x000E, "UI", uid);
    p = le(p, 0x00107FE0, 4), memcpy(p, "OW\0\0", 4), le(p + 4, size - (p + 8 - start), 4);
}
static void add_segment(const u8 *data, size_t length) { /* what repeats is the same memory */
    segments[segment_count].data = data;
    segments[segment_count++].length = length;
}
static u8 *build(double from, double to, uint32_t fragment, size_t *length) { /* the PDUs of [from, to) of the data set */
    size_t count = (to - from + fragment - 1) / fragment;
    u8 *data = mmap(NULL, (size_t)(to - from) + count * 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *p = data;
    if (data == MAP_FAILED) die("memory");
    while (from < to) {
        size_t n = to - from < fragment ? to - from : fragment;
        p = head(p, 1, from + n >= size ? 2 : 0, n);
        for (size_t i = 0; i < n; i++) p[i] = i * 7;
        if (from == 0) header(p);
        p += n, from += n;
    }
    *length = p - data;
    return data;
}
static void build_message(uint32_t fragment) {
    if (echo) return;
    size_t length;
    double block = (double)fragment * (1 + (8 << 20) / fragment);
    if (size <= 8 * block) {
        u8 *data = build(0, size, fragment, &length);
        add_segment(data, length);
        return;
    }
    u8 *data = build(0, block, fragment, &length);
    add_segment(data, length);
    data = build(block, 2 * block, fragment, &length);
    double from = block;
    for (; from + block < size; from += block) add_segment(data, length);
    data = build(from, size, fragment, &length);
    add_segment(data, length);
}
static void next_command(struct association *a) {
    counter++;
    le(a->message_id, counter % 65535 + 1, 2);
    if (a->uid) { /* others' messages with the same bytes have left this process: a message is sent when the last is answered */
        char digits[UID_LENGTH + 1];
        snprintf(digits, sizeof digits, "2.25.1%06ld%04d%010ld", run, a->id % 10000, counter % 1000000000);
        memcpy(a->uid, digits, UID_LENGTH);
        memcpy(data_uid, digits, UID_LENGTH);
    }
}
static void pump(struct association *a) { /* send what may be sent */
    for (;;) {
        if (!a->in_message) {
            if (a->outstanding || started >= limit || now() >= deadline) return;
            next_command(a);
            a->in_message = 1, a->segment = -1, a->offset = 0;
            a->outstanding++, started++;
        }
        struct iovec iov[8];
        int n = 0, s = a->segment;
        size_t offset = a->offset;
        for (; n < 8 && s < segment_count; s++, offset = 0, n++) {
            const u8 *data = s < 0 ? a->command : segments[s].data;
            size_t length = s < 0 ? (size_t)a->command_length : segments[s].length;
            iov[n] = (struct iovec){(void *)(data + offset), length - offset};
        }
        ssize_t sent = writev(a->fd, iov, n);
        if (sent < 0 && errno != EAGAIN) die("write");
        for (int i = 0; i < n && sent > 0; i++) {
            if ((size_t)sent < iov[i].iov_len) {
                a->offset += sent, sent = 0;
                break;
            }
            sent -= iov[i].iov_len, a->segment++, a->offset = 0;
        }
        if (a->segment >= segment_count) {
            a->in_message = 0;
            continue;
        }
        struct epoll_event e = {EPOLLIN | EPOLLOUT, {.ptr = a}};
        if (!a->blocked) epoll_ctl(epoll, EPOLL_CTL_MOD, a->fd, &e), a->blocked = 1;
        return;
    }
}
static int responses(struct association *a) { /* read; how many responses have come */
    int one = 1, count = 0;
    ssize_t got = get(a, a->in + a->in_length, sizeof a->in - a->in_length);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) die("the peer closed the connection");
    setsockopt(a->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    a->in_length += got;
    size_t at = 0;
    while (a->in_length - at >= 6) {
        u8 *p = a->in + at;
        size_t n = get_be(p + 2, 4) + 6;
        if (a->in_length - at < n) break;
        errno = 0;
        if (p[0] != 4) die(p[0] == 7 ? "A-ABORT" : "not a P-DATA-TF");
        if (p[11] & 2) {
            const u8 *status = find(p + 12, n - 12, 0x0900, NULL);
            if (!status || get_le(status, 2)) failures++;
            count++;
        }
        at += n;
    }
    memmove(a->in, a->in + at, a->in_length -= at);
    return count;
}
static void release(struct association *a) {
    u8 pdu[10] = {5, 0, 0, 0, 0, 4};
    fcntl(a->fd, F_SETFL, 0);
    put_all(a, pdu, 10);
    get_all(a, pdu, 10);
    close(a->fd);
}
static int by_value(const void *a, const void *b) { return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b); }

static void until_told(void) {
    char byte;
    while (read(0, &byte, 1) == 1 && byte != '\n');
}
static void exchange(struct association *a) { /* one message and its response, blocking */
    next_command(a);
    if (a->ssl) {
        put_all(a, a->command, a->command_length);
        for (int i = 0; i < segment_count; i++) put_all(a, segments[i].data, segments[i].length);
    } else {
        struct iovec iov[2] = {{a->command, a->command_length}, {(void *)segments[0].data, segments[0].length}};
        ssize_t sent = writev(a->fd, iov, segment_count ? 2 : 1);
        if (sent < a->command_length) die("write");
        sent -= a->command_length;
        for (int i = 0; i < segment_count; i++, sent = 0) write_all(a->fd, segments[i].data + sent, segments[i].length - sent);
    }
    while (!responses(a));
}
static void store_files(struct association *a) { /* read(2) each into one buffer with room for the headers; blocking */
    u8 *buffer = malloc(64 << 20);
    for (int i = 0; i < file_count; i++) {
        int fd = open(files[i], O_RDONLY);
        struct stat st;
        if (fd < 0 || fstat(fd, &st)) die(files[i]);
        u8 start[512];
        if (pread(fd, start, sizeof start, 0) < 200) die(files[i]);
        size_t skip = 144 + get_le(start + 140, 4), left = st.st_size - skip, off = skip;
        const u8 *uid = NULL; /* (0002,0003), explicit VR */
        int uid_length = 0;
        for (u8 *p = start + 144; p < start + skip;) {
            int is_long = !memcmp(p + 4, "OB", 2);
            int n = is_long ? get_le(p + 8, 4) : get_le(p + 6, 2);
            if (get_le(p + 2, 2) == 3) uid = p + 8, uid_length = n;
            p += (is_long ? 12 : 8) + n;
        }
        u8 elements[512], *e = elements;
        e = element(e, 0x0002, CT, strlen(CT));
        e = element_us(e, 0x0100, 1), e = element_us(e, 0x0110, i % 65535 + 1);
        e = element_us(e, 0x0700, 0), e = element_us(e, 0x0800, 0), e = element(e, 0x1000, uid, uid_length);
        u8 *p = buffer + command_pdu(buffer, 1, elements, e - elements);
        while (left) {
            struct iovec iov[64];
            int n = 0;
            size_t want = 0;
            while (left && n < 64) {
                size_t piece = left < a->fragment ? left : a->fragment;
                left -= piece, want += piece;
                p = head(p, 1, left ? 0 : 2, piece);
                iov[n++] = (struct iovec){p, piece};
                p += piece;
            }
            if (preadv(fd, iov, n, off) != (ssize_t)want) die("short read");
            off += want;
            write_all(a->fd, buffer, p - buffer);
            p = buffer;
        }
        close(fd);
        while (!responses(a));
    }
}
#ifdef TLS
static int send_tls(struct association *all, int count, double seconds) { /* a process for each: encrypting is work */
    struct outcome { int ready; long messages, failures; double end; char with[64]; } *outcomes;
    outcomes = mmap(NULL, count * sizeof *outcomes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int go[2];
    if (outcomes == MAP_FAILED || pipe(go)) die("memory");
    tls = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
    for (int i = 0; i < count; i++) {
        struct association *a = all + i;
        struct outcome *mine = outcomes + i;
        pid_t child = fork();
        if (child < 0) die("fork");
        if (child) continue;
        close(go[1]);
        a->id = i;
        associate(a);
        build_message(a->fragment);
        snprintf(mine->with, sizeof mine->with, "%s %s", SSL_get_version(a->ssl), SSL_get_cipher_name(a->ssl));
        mine->ready = 1;
        if (read(go[0], go, 1)) die("go");
        for (deadline = now() + seconds; now() < deadline; mine->messages++) exchange(a);
        mine->end = now(), mine->failures = failures;
        release(a);
        _exit(0);
    }
    for (int i = 0, status; i < count; i++)
        while (!*(volatile int *)&outcomes[i].ready) {
            if (waitpid(-1, &status, WNOHANG)) exit(1); /* it has said why */
            usleep(500);
        }
    double begin = now(), end = begin;
    long messages = 0;
    close(go[1]);
    for (int i = 0, status; i < count; i++) {
        if (wait(&status) < 0 || status) exit(1);
    }
    for (int i = 0; i < count; i++) {
        messages += outcomes[i].messages, failures += outcomes[i].failures;
        if (outcomes[i].end > end) end = outcomes[i].end;
    }
    printf("{\"messages\": %ld, \"seconds\": %.6f, \"bytes\": %.0f, \"failures\": %ld, \"tls\": \"%s\"}\n", messages,
           end - begin, messages * size, failures, outcomes->with);
    fflush(stdout);
    until_told();
    return 0;
}
#endif
static int send_main(int argc, char **argv) {
    const char *mode = option(argc, argv, "mode", "store");
    port = atoi(argv[2]);
    int count = number(argc, argv, "associations", 1), echoed = number(argc, argv, "echoed", 100);
    double seconds = number(argc, argv, "seconds", 1);
    limit = number(argc, argv, "messages", 1e9);
    run = (long)(now() * 1000) % 1000000;
    size = number(argc, argv, "size", 524288);
    pdu_length = number(argc, argv, "pdu", 16384);
    echo = !strcmp(mode, "echo") || !strcmp(mode, "idle");
    struct association *all = calloc(count, sizeof *all);
    if (!all) die("memory");
    if (!strcmp(mode, "associate")) {
        struct association *a = all;
        long done = 0;
        double begin = now();
        for (; done < limit && now() < begin + seconds; done++) {
            a->in_length = 0;
            associate(a);
            if (!segment_count) build_message(a->fragment);
            exchange(a);
            release(a);
        }
        double end = now();
        printf("{\"messages\": %ld, \"seconds\": %.6f, \"bytes\": %.0f, \"failures\": %ld}\n", done, end - begin,
               done * size, failures);
        fflush(stdout);
        until_told();
        return 0;
    }
    if (!strcmp(mode, "files")) {
        const char *folder = option(argc, argv, "folder", ".");
        struct dirent **names;
        int n = scandir(folder, &names, NULL, alphasort);
        files = calloc(n, sizeof *files);
        for (int i = 0; i < n; i++)
            if (names[i]->d_name[0] != '.' && asprintf(&files[file_count++], "%s/%s", folder, names[i]->d_name) < 0) die("memory");
        associate(all);
        store_files(all);
        release(all);
        return 0;
    }
#ifdef TLS
    if (!strcmp(mode, "tls")) return send_tls(all, count, seconds);
#endif
    double begin = now();
    for (int i = 0; i < count; i++) all[i].id = i, associate(all + i);
    double opened = now() - begin;
    if (!strcmp(mode, "idle")) {
        double *took = calloc(1000000, sizeof *took);
        int n = 0;
        printf("{\"open\": %d, \"seconds\": %.6f}\n", count, opened);
        fflush(stdout);
        until_told();
        for (deadline = now() + seconds; now() < deadline && n < 1000000;) {
            struct association *a = all + (long)n * (count < echoed ? 1 : count / echoed) % count;
            double start = now();
            exchange(a);
            took[n++] = now() - start;
            usleep(1000);
        }
        qsort(took, n, sizeof *took, by_value);
        printf("{\"echoes\": %d, \"p50\": %.6f, \"p99\": %.6f, \"max\": %.6f}\n", n, took[n / 2], took[n * 99 / 100], took[n - 1]);
        fflush(stdout);
        until_told();
        return 0;
    }
    build_message(all->fragment);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    begin = now(), deadline = begin + seconds;
    for (int i = 0; i < count; i++) {
        struct epoll_event e = {EPOLLIN, {.ptr = all + i}};
        fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &e);
    }
    for (int i = 0; i < count; i++) pump(all + i);
    while (finished < started) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, 60000);
        if (n <= 0) die("no response for 60 s");
        for (int i = 0; i < n; i++) {
            struct association *a = events[i].data.ptr;
            if (events[i].events & EPOLLIN) {
                int came = responses(a);
                finished += came, a->outstanding -= came;
            }
            if (a->blocked && events[i].events & EPOLLOUT) {
                struct epoll_event e = {EPOLLIN, {.ptr = a}};
                epoll_ctl(epoll, EPOLL_CTL_MOD, a->fd, &e), a->blocked = 0;
            }
            if (!a->blocked) pump(a);
        }
    }
    double took = now() - begin;
    printf("{\"messages\": %ld, \"seconds\": %.6f, \"bytes\": %.0f, \"failures\": %ld, \"pdu\": %u}\n", finished, took,
           finished * (echo ? 0 : size), failures, all->fragment + 6);
    fflush(stdout);
    until_told();
    for (int i = 0; i < count; i++) release(all + i);
    return 0;
}

/* Receiving */

struct connection {
    int fd, context, control, has_data, response_length;
    size_t pdu_left, pdv_left, have; /* have: bytes of the header or of the small PDU that is being gathered */
    size_t small_length, command_length;
    u8 *data;
    size_t data_length, data_size;
    long messages;
    double bytes, first, last;
    u8 command[1024], response[512], small[65536]; /* the last, because most of it is never touched */
};
static uint32_t announced;
static const char *folder;
static int sync_folder = -1; /* to write to stable storage: the folder, else -1 */

static void answer_associate(struct connection *c) {
    u8 pdu[65536], *p, *rq = c->small, *end = rq + c->small_length;
    memset(pdu, 0, 80);
    pdu[0] = 2, pdu[7] = 1;
    memcpy(pdu + 10, rq + 10, 64);
    p = item(pdu + 74, 0x10, APPLICATION, strlen(APPLICATION));
    for (u8 *i = rq + 74; end - i >= 4; i += 4 + get_be(i + 2, 2)) {
        if (*i != 0x20) continue;
        u8 sub[80] = {i[4]}, *q = NULL;
        for (u8 *s = i + 8; s < i + 4 + get_be(i + 2, 2); s += 4 + get_be(s + 2, 2))
            if (*s == 0x40 && !q) q = item(sub + 4, 0x40, s + 4, get_be(s + 2, 2));
        if (q) p = item(p, 0x21, sub, q - sub);
    }
    u8 length[4], sub[128];
    be(length, announced, 4);
    u8 *q = item(sub, 0x51, length, 4);
    q = item(q, 0x52, IMPLEMENTATION, strlen(IMPLEMENTATION));
    p = item(p, 0x50, sub, q - sub);
    be(pdu + 2, p - pdu - 6, 4);
    write_all(c->fd, pdu, p - pdu);
}
static void message_ended(struct connection *c) {
    if (folder && c->data_length) {
        char name[4096], part[4200];
        static long serial;
        snprintf(name, sizeof name, "%s/%ld.dcm", folder, serial++);
        snprintf(part, sizeof part, "%s.part", name);
        int fd = open(part, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0) die(part);
        write_all(fd, c->data, c->data_length);
        if (sync_folder >= 0 && fsync(fd)) die(part);
        close(fd);
        rename(part, name);
        if (sync_folder >= 0 && fsync(sync_folder)) die(folder);
    }
    c->bytes += c->data_length, c->data_length = 0, c->messages++;
    write_all(c->fd, c->response, c->response_length);
    c->last = now();
}
static void command_ended(struct connection *c) {
    int uid_length = 0, class_length = 0;
    const u8 *p = c->command, *field, *id, *type, *class, *uid;
    int n = c->command_length;
    field = find(p, n, 0x0100, NULL), id = find(p, n, 0x0110, NULL), type = find(p, n, 0x0800, NULL);
    class = find(p, n, 0x0002, &class_length), uid = find(p, n, 0x1000, &uid_length);
    u8 elements[400], *e = elements;
    if (!field || !id || !type || class_length > 64 || uid_length > 64) die("command set");
    if (class) e = element(e, 0x0002, class, class_length);
    e = element_us(e, 0x0100, get_le(field, 2) | 0x8000);
    e = element_us(e, 0x0120, get_le(id, 2));
    e = element_us(e, 0x0800, 0x0101);
    e = element_us(e, 0x0900, 0);
    if (uid) e = element(e, 0x1000, uid, uid_length);
    c->response_length = command_pdu(c->response, c->context, elements, e - elements);
    c->command_length = 0;
    if (get_le(type, 2) == 0x0101) message_ended(c);
}
static void fragment(struct connection *c, const u8 *p, size_t n) {
    if (c->control & 1) {
        if (c->command_length + n > sizeof c->command) die("command set");
        memcpy(c->command + c->command_length, p, n);
        c->command_length += n;
        if (c->pdv_left == n && c->control & 2) command_ended(c);
        return;
    }
    if (c->data_length + n > c->data_size) {
        c->data_size = (c->data_length + n) * 2;
        if (!(c->data = realloc(c->data, c->data_size))) die("memory");
    }
    memcpy(c->data + c->data_length, p, n);
    c->data_length += n;
    if (c->pdv_left == n && c->control & 2) message_ended(c);
}
static int take(struct connection *c, const u8 *p, size_t n) { /* 0 when the association is over */
    while (n) {
        size_t want;
        if (c->pdv_left) {
            want = n < c->pdv_left ? n : c->pdv_left;
            fragment(c, p, want);
            c->pdv_left -= want, p += want, n -= want;
            continue;
        }
        /* a PDV header (6 bytes), a PDU header (6 bytes), or a small PDU, gathered in c->small */
        size_t whole = c->pdu_left ? 6 : c->have < 6 || c->small[0] == 4 ? 6 : 6 + get_be(c->small + 2, 4);
        if (whole > sizeof c->small) die("a PDU too long");
        want = n < whole - c->have ? n : whole - c->have;
        memcpy(c->small + c->have, p, want);
        c->have += want, p += want, n -= want;
        if (c->have < whole) return 1;
        if (c->pdu_left) {
            c->pdv_left = get_be(c->small, 4) - 2, c->context = c->small[4], c->control = c->small[5];
            c->pdu_left -= c->pdv_left + 6, c->have = 0;
            continue;
        }
        if (c->small[0] == 4) {
            c->pdu_left = get_be(c->small + 2, 4), c->have = 0;
            if (!c->first) c->first = now();
            continue;
        }
        if (whole == 6) {
            if (get_be(c->small + 2, 4)) continue;
            die("an empty PDU");
        }
        c->small_length = whole, c->have = 0;
        if (c->small[0] == 1) answer_associate(c);
        else if (c->small[0] == 5) {
            u8 answer[10] = {6, 0, 0, 0, 0, 4};
            write_all(c->fd, answer, 10);
        } else return 0;
    }
    return 1;
}
static ssize_t receive_pdu(struct connection *c) { /* headers, then the fragment straight to its place: no copy, more calls */
    for (;;) {
        if (!c->pdv_left || c->control & 1) {
            u8 bytes[512]; /* a PDU header and a PDV header make 12 bytes, and no PDU is shorter than 10 */
            size_t want = c->pdv_left ? c->pdv_left : c->pdu_left || c->have ? 6 - c->have % 6 : 10;
            ssize_t got = recv(c->fd, bytes, want < sizeof bytes ? want : sizeof bytes, MSG_DONTWAIT);
            if (got <= 0) return got;
            if (!take(c, bytes, got)) return 0;
            continue;
        }
        if (c->data_length + c->pdv_left > c->data_size) {
            c->data_size = (c->data_length + c->pdv_left) * 2;
            if (!(c->data = realloc(c->data, c->data_size))) die("memory");
        }
        ssize_t got = recv(c->fd, c->data + c->data_length, c->pdv_left, MSG_DONTWAIT);
        if (got <= 0) return got;
        c->data_length += got, c->pdv_left -= got;
        if (!c->pdv_left && c->control & 2) message_ended(c);
    }
}
static int gather_main(int argc, char **argv) {
    announced = number(argc, argv, "pdu", 16384);
    folder = option(argc, argv, "folder", NULL);
    if (folder && number(argc, argv, "sync", 0) && (sync_folder = open(folder, O_RDONLY | O_DIRECTORY)) < 0) die(folder);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, poll = epoll_create1(EPOLL_CLOEXEC);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 4096)) die("listen");
    getsockname(listener, (struct sockaddr *)&a, &length);
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    size_t slab_size = number(argc, argv, "slab", 256 << 10);
    u8 *slab = malloc(slab_size);
    int by_pdu = number(argc, argv, "by_pdu", 0);
    struct epoll_event event = {EPOLLIN, {.ptr = NULL}}, input = {EPOLLIN, {.ptr = slab}};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &input);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].data.ptr == slab) return 0; /* stdin is closed */
            if (!c) {
                c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (c == MAP_FAILED) die("memory");
                c->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.ptr = c;
                epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
                continue;
            }
            ssize_t got = by_pdu ? receive_pdu(c) : recv(c->fd, slab, slab_size, MSG_DONTWAIT);
            if (got < 0 && errno == EAGAIN) continue;
            if (got > 0 && (by_pdu || take(c, slab, got))) continue;
            if (c->messages) {
                printf("{\"messages\": %ld, \"bytes\": %.0f, \"seconds\": %.6f}\n", c->messages, c->bytes, c->last - c->first);
                fflush(stdout);
            }
            close(c->fd);
            free(c->data);
            munmap(c, sizeof *c);
        }
    }
}
int main(int argc, char **argv) {
    if (argc >= 3 && !strcmp(argv[1], "send")) return send_main(argc, argv);
    if (argc >= 2 && !strcmp(argv[1], "gather")) return gather_main(argc, argv);
    fprintf(stderr, "usage: peer send PORT key=value... | peer gather key=value...\n");
    return 2;
}
