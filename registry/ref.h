/*
 * ref.h - names: repositories, tags, references, registry sources
 *
 * Grammars: distribution-spec spec.md "Pulling manifests" (name, tag), image-spec descriptor.md
 * (digest), distribution/reference (host).  Everything that becomes part of a URL or of a path on
 * disk has passed one of these checks first.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "util/err.h"

#define REF_REPO_MAX 255	/* bytes of a repository name, as clients commonly limit it */
#define REF_TAG_MAX 128
#define REF_HOST_MAX 255

bool ref_is_repo(const char *s, size_t len);		/* "a/b/c" */
bool ref_is_repo_component(const char *s, size_t len);	/* one "a" of it */
bool ref_is_tag(const char *s, size_t len);
bool ref_is_host(const char *s, size_t len);		/* name, IPv4 or [IPv6], optional :port */

struct sockaddr;

/* The one set of rules about addresses, for literals as for what DNS answers.  IPv6 addresses that
 * carry an IPv4 address (mapped, compatible, NAT64, 6to4) are judged by that as well. */
enum addr_class {
	ADDR_USUAL = 0,
	ADDR_LOOPBACK,
	ADDR_FORBIDDEN,		/* link-local, unspecified, metadata service, no IP at all: never a
				   registry, realm or redirect */
};
enum addr_class ref_addr_class(const struct sockaddr *sa);
/* host: with or without brackets and port, in every spelling that the resolver takes (127.1). */
bool ref_host_is_link_local(const char *host);	/* a literal of class FORBIDDEN */
bool ref_host_is_loopback(const char *host);	/* or the name localhost */
bool ref_is_docker_hub(const char *host);	/* any of its names, in lower case */
/* A copy in lower case (ASCII), or NULL. */
char *ref_lower_dup(const char *s, size_t len);

/* Tags that stand for referrers, not for images: sha256-<hex>, sha256-<hex>.sig|.att|.sbom. */
bool ref_tag_is_digest_tag(const char *s, size_t len);

enum source_kind { SOURCE_UNSET = 0, SOURCE_OCI, SOURCE_DIR };

/* What the command line calls SOURCE, taken apart.  Strings are owned: ref_source_done. */
struct ref_source {
	enum source_kind kind;
	bool plain_http;	/* http:// was written */
	char *host;		/* OCI: host[:port], lower case, as on the wire except docker.io */
	char *prefix;		/* OCI: repository prefix without slashes at its ends, "" for none */
	char *path;		/* DIR: absolute path */
	char *name;		/* what people call it: "host/prefix" or "dir:/path" */
};

errint_t ref_source_parse(const char *s, struct ref_source *ret, struct err *e) _must_check_;
void ref_source_done(struct ref_source *s);
