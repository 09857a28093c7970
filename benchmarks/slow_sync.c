/* Makes each sync of a file take 50 ms longer while a file exists. For LD_PRELOAD.

   SLOW_SYNC_FILE  the path of that file */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_if_told(void) {
    const char *file = getenv("SLOW_SYNC_FILE");
    if (file && access(file, F_OK) == 0) usleep(50000);
}

int fsync(int descriptor) {
    wait_if_told();
    return ((__typeof__(&fsync))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int fdatasync(int descriptor) {
    wait_if_told();
    return ((__typeof__(&fdatasync))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
