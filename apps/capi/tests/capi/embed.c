/* embed MODEL IMAGE PIXELS WIDTH HEIGHT: the C interface from C. PIXELS holds the image as raw RGBA. Prints the
 * feature; ends with the number of the line that found something wrong. */
#if defined(__unix__) || defined(__APPLE__)
#define HAS_FORK
#define _POSIX_C_SOURCE 200112L
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "ibot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    if (!(condition)) {                                                                                                \
        fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #condition, ibot_last_error());                     \
        return 1;                                                                                                      \
    }

static int says(const char *part) { return strstr(ibot_last_error(), part) != NULL; }

static int refusals(const char *model) {
    ibot_embedder *embedder = (ibot_embedder *)1;
    float number = 0;
    CHECK(strlen(ibot_last_error()) == 0);
    CHECK(ibot_load(NULL, NULL, &embedder) == IBOT_ERROR_ARGUMENT && says("path = NULL"));
    CHECK(embedder == NULL);
    CHECK(ibot_load(model, NULL, NULL) == IBOT_ERROR_ARGUMENT && says("embedder = NULL"));
    CHECK(ibot_load(model, "abacus", &embedder) == IBOT_ERROR_ARGUMENT && says("abacus"));
    CHECK(ibot_load("absent.safetensors", "flex", &embedder) != IBOT_OK && says("absent.safetensors"));
    CHECK(ibot_load("\xff", "flex", &embedder) == IBOT_ERROR_ARGUMENT && says("UTF-8"));
    CHECK(embedder == NULL);
    CHECK(ibot_width(NULL) == 0);
    CHECK(ibot_embed_path(NULL, "cat.png", &number, 1) == IBOT_ERROR_ARGUMENT && says("embedder = NULL"));
    ibot_free(NULL);
    CHECK(says("embedder = NULL"));
    return 0;
}

int main(int count, char **arguments) {
    CHECK(count == 6);
    const char *model = arguments[1], *image = arguments[2];
    uint32_t width = (uint32_t)atoi(arguments[4]), height = (uint32_t)atoi(arguments[5]);
    size_t bytes = (size_t)width * height * 4, features, at;
    uint8_t *pixels = malloc(bytes);
    FILE *file = fopen(arguments[3], "rb");
    CHECK(file != NULL && fread(pixels, 1, bytes, file) == bytes);
    fclose(file);
    if (refusals(model) != 0) return 1;

    ibot_embedder *embedder;
    CHECK(ibot_load(model, "flex", &embedder) == IBOT_OK && strlen(ibot_last_error()) == 0);
    features = ibot_width(embedder);
    CHECK(features > 0);
    float *of_file = malloc(features * sizeof *of_file), *of_pixels = malloc(features * sizeof *of_pixels);
    CHECK(ibot_embed_path(embedder, image, of_file, features) == IBOT_OK);
    CHECK(ibot_embed_rgba(embedder, pixels, width, height, of_pixels, features) == IBOT_OK);
    CHECK(memcmp(of_file, of_pixels, features * sizeof *of_file) == 0);
    CHECK(ibot_embed_path(embedder, image, of_file, features + 1) == IBOT_ERROR_ARGUMENT && says("length"));
    CHECK(ibot_embed_path(embedder, image, NULL, features) == IBOT_ERROR_ARGUMENT && says("feature = NULL"));
    CHECK(ibot_embed_path(embedder, NULL, of_file, features) == IBOT_ERROR_ARGUMENT && says("path = NULL"));
    CHECK(ibot_embed_path(embedder, "absent.png", of_file, features) == IBOT_ERROR_FILE && says("absent.png"));
    CHECK(ibot_embed_rgba(embedder, NULL, 1, 1, of_file, features) == IBOT_ERROR_ARGUMENT && says("pixels = NULL"));
    CHECK(ibot_embed_rgba(embedder, pixels, 0, 9, of_file, features) == IBOT_ERROR_ARGUMENT && says("at least one"));
#ifdef HAS_FORK
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int is_refused = ibot_embed_path(embedder, image, of_file, features) == IBOT_ERROR_OTHER && says("forked");
        ibot_free(embedder);
        _exit(is_refused ? 0 : 1);
    }
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
#endif
    for (at = 0; at < features; at++) printf("%.9g\n", of_pixels[at]);
    const char *error = ibot_last_error();
    ibot_free(embedder);
    CHECK(error == ibot_last_error() && says("at least one"));
    free(of_file), free(of_pixels), free(pixels);
    return 0;
}
