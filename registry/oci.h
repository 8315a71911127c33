/*
 * oci.h - manifests, indexes and configs, parsed from their exact bytes
 *
 * image-spec manifest.md, image-index.md, config.md, descriptor.md and Docker's equivalents
 * (manifest list and manifest v2 schema 2).  Parsing copies what is needed; the bytes themselves
 * are kept by the caller and never re-serialised.  Unknown members and media types are not errors;
 * duplicate members are (json.h).  Everything is bounded by the ceilings below (EFBIG, LIMIT).
 *
 * Digests that are well formed but of an algorithm nobody here can verify: a config, layer or
 * subject with one makes the manifest EOPNOTSUPP; an index leaves out such a child; a diff id has
 * alg DIGEST_UNSET, so that the positions stay right.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/cleanup.h"
#include "util/digest.h"
#include "util/err.h"

#define OCI_MANIFEST_MAX (8u << 20)	/* bytes; spec asks servers for 4 MiB at least */
#define OCI_CONFIG_MAX (16u << 20)
#define OCI_LAYERS_MAX 1024
#define OCI_CHILDREN_MAX 10000
#define OCI_ANNOTATIONS_MAX 4096	/* of one manifest or descriptor */
#define OCI_HISTORY_MAX 16384		/* entries of a config */

#define OCI_TYPE_INDEX "application/vnd.oci.image.index.v1+json"
#define OCI_TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_TYPE_CONFIG "application/vnd.oci.image.config.v1+json"
#define OCI_TYPE_DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define OCI_TYPE_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define OCI_TYPE_DOCKER_CONFIG "application/vnd.docker.container.image.v1+json"

/* SOCI indexes (layers.md 5.3): an image manifest whose layers are zTOCs, with the type below as
 * artifactType or as its config's media type.  v1 has the image as its subject; v2 is named by an
 * annotation of the image's manifest. */
#define OCI_TYPE_SOCI_V1 "application/vnd.amazon.soci.index.v1+json"
#define OCI_TYPE_SOCI_V2 "application/vnd.amazon.soci.index.v2+json"
#define OCI_TYPE_SOCI_ZTOC "application/octet-stream"
#define OCI_SOCI_INDEX "com.amazon.soci.index-digest"		/* image manifest -> v2 index */
#define OCI_SOCI_IMAGE "com.amazon.soci.image-manifest-digest"	/* descriptor of a v2 index -> image manifest */
#define OCI_SOCI_TOOL "com.amazon.soci.build-tool-identifier"	/* of an index */
#define OCI_SOCI_LAYER "com.amazon.soci.image-layer-digest"	/* of a zTOC, as those below */
#define OCI_SOCI_LAYER_TYPE "com.amazon.soci.image-layer-mediaType"
#define OCI_SOCI_SPAN_SIZE "com.amazon.soci.span-size"

struct oci_annotation {
	char *key;
	char *value;
};

struct oci_descriptor {
	struct digest digest;
	uint64_t size;			/* bytes, as declared */
	char *media_type;		/* "" when absent */
	char *artifact_type;		/* or NULL */
	char *os, *arch, *variant, *os_version;	/* platform; NULL when absent */
	struct oci_annotation *annotations;
	size_t n_annotations;
	char *data;			/* decoded `data` member (unverified), or NULL */
	size_t data_len;
};

enum oci_kind { OCI_UNSET = 0, OCI_IMAGE, OCI_INDEX };

struct oci_manifest {
	enum oci_kind kind;
	char *media_type;		/* the body's, else content_type, else the OCI type; never NULL */
	char *artifact_type;		/* NULL when absent */
	struct oci_descriptor config;	/* IMAGE; alg DIGEST_UNSET when there is none */
	struct oci_descriptor *layers;	/* IMAGE: base first */
	size_t n_layers;
	struct oci_descriptor *children;/* INDEX */
	size_t n_children;
	bool has_subject;
	struct oci_descriptor subject;
	struct oci_annotation *annotations;
	size_t n_annotations;
};

/* content_type: from the registry, may be NULL; when the body has a mediaType of its own and both
 * are known types, they must agree (image-spec media-types.md).  Class INPUT on refusal. */
errint_t oci_manifest_parse(const char *data, size_t len, const char *content_type,
			    struct oci_manifest **ret, struct err *e) _must_check_;
struct oci_manifest *oci_manifest_free(struct oci_manifest *m);
DEFINE_CLEANUP(struct oci_manifest *, oci_manifest_free)

const char *oci_annotation(const struct oci_annotation *a, size_t n, const char *key); /* or NULL */
void oci_descriptor_done(struct oci_descriptor *d);

/* Is this layer a file tree (tar, any compression)?  Decided by media type; unknown types that end
 * in "tar", "tar+gzip", "tar+zstd", "tar.gzip" count. */
bool oci_is_tree_layer(const char *media_type);
/* "tar.gz", "tar.zst", "tar" or "blob", the file name suffix for layers/NN.<suffix>. */
const char *oci_layer_suffix(const char *media_type);
/* What people call the type: artifactType, else config media type. */
const char *oci_artifact_type(const struct oci_manifest *m);
/* True when rootfs makes sense: an image whose layers are all file trees (or an image config without
 * layers). */
bool oci_is_container_image(const struct oci_manifest *m);
/* The platform as one directory name: "linux-arm64", "linux-arm-v7", "windows-amd64-10.0.17763".
 * What is absent is "unknown"; arm64 v8 is plain arm64, as in containerd; characters that are not
 * safe in a name become '_'.  Two children may have the same name.  -ENAMETOOLONG: out too small. */
errint_t oci_platform_name(const struct oci_descriptor *d, char *out, size_t out_len);
/* BuildKit: an attestation child (platform unknown/unknown with vnd.docker.reference.type). */
bool oci_is_attestation(const struct oci_descriptor *d);

/* One history entry of a config; layer is -1 for empty layers and for those without a diff id. */
struct oci_history {
	char *created, *created_by, *comment, *author;
	int layer;
};
struct oci_config {
	char *created, *os, *arch, *variant;
	int64_t created_s;		/* 0 when absent or unreadable */
	struct digest *diff_ids;	/* alg DIGEST_UNSET: cannot be verified */
	size_t n_diff_ids;
	struct oci_history *history;
	size_t n_history;
};
errint_t oci_config_parse(const char *data, size_t len, struct oci_config **ret, struct err *e) _must_check_;
struct oci_config *oci_config_free(struct oci_config *c);
DEFINE_CLEANUP(struct oci_config *, oci_config_free)
