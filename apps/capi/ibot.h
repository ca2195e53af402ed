/* ibot: features of images by a model file, for C and C++.
 *
 *     ibot_embedder *embedder;
 *     if (ibot_load("teacher.safetensors", NULL, &embedder) != IBOT_OK) {
 *         fprintf(stderr, "%s\n", ibot_last_error());
 *         return 1;
 *     }
 *     size_t width = ibot_width(embedder);
 *     float *feature = malloc(width * sizeof *feature);
 *     ibot_status status = ibot_embed_path(embedder, "cat.png", feature, width);
 *     ibot_free(embedder);
 *
 * The library: cargo build --release -p ibot-capi
 *
 * One embedder may be used from several threads at once; its work is done on a thread of its own, one call after the
 * other. Calls wait for their result. Texts are UTF-8. Nothing here ends or unwinds into the caller.
 *
 * Once used, the library stays loaded until the process ends: threads of its own run its code, also after ibot_free. A
 * process that is forked from one that has used it has none of these threads: there, to load or to embed is an error.
 */
#ifndef IBOT_H
#define IBOT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A loaded model. */
typedef struct ibot_embedder ibot_embedder;

/* How a call went; ibot_last_error() says it in words. */
typedef int ibot_status;
enum {
    IBOT_OK = 0,
    /* A null pointer, an unknown backend, a buffer of another length. */
    IBOT_ERROR_ARGUMENT = 1,
    /* A model or an image that cannot be read or used. */
    IBOT_ERROR_FILE = 2,
    /* No such device, or it failed: the next call opens it again. If that fails too, load the model on "flex". */
    IBOT_ERROR_DEVICE = 3,
    /* Anything else. */
    IBOT_ERROR_OTHER = 4
};

/* Loads the model file `path`, as `ibot train` writes it, and puts it on a device.
 * `backend`: "auto" or NULL (a GPU where there is one, else the CPU), "wgpu" (a GPU), "flex" (the CPU), "ndarray".
 * `*embedder` becomes the model, or NULL after an error. */
ibot_status ibot_load(const char *path, const char *backend, ibot_embedder **embedder);

/* Numbers of a feature: 384 for ViT-S. 0 for NULL. */
size_t ibot_width(const ibot_embedder *embedder);

/* Writes the feature of an image file to `feature`, which has `length` numbers; that must be ibot_width(embedder). */
ibot_status ibot_embed_path(const ibot_embedder *embedder, const char *path, float *feature, size_t length);

/* The same for pixels of four bytes each (red, green, blue, alpha), row by row from the top: 4 * width * height bytes. */
ibot_status ibot_embed_rgba(const ibot_embedder *embedder, const uint8_t *pixels, uint32_t width, uint32_t height,
                            float *feature, size_t length);

/* Frees a model, waiting for its thread. No other call with it may be under way, or follow. NULL is none.
 * ibot_last_error() stays as it is. */
void ibot_free(ibot_embedder *embedder);

/* What the last ibot_load or ibot_embed_... on this thread ran into; empty where it went well. The text is the
 * library's and stays until the next of them on this thread. Never NULL. */
const char *ibot_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
