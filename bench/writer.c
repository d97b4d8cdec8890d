/* writer SIZE TOTAL: lines of 100 bytes on standard output, SIZE bytes with each write(2), TOTAL bytes in all. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char data[1 << 20];
    size_t size = argc > 2 ? strtoul(argv[1], NULL, 10) : 0, total = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    if (size == 0 || size > sizeof data - 100)
        return 2;
    memset(data, 'x', sizeof data);
    for (size_t at = 99; at < sizeof data; at += 100)
        data[at] = '\n';
    for (size_t done = 0; done < total;) { /* each write begins where the last ended within a line */
        size_t from = done % 100, count = total - done < size ? total - done : size;
        ssize_t wrote = write(STDOUT_FILENO, data + from, count);
        if (wrote < 0)
            return 1;
        done += (size_t)wrote;
    }
    return 0;
}
