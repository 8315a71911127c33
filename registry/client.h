/*
 * client.h - what a client consists of (private to transport.c and client.c)
 */
#pragma once

#include "registry/auth.h"
#include "registry/creds.h"
#include "registry/hosts.h"
#include "registry/http.h"

struct hmap;

struct rg_client {
	struct rg_opts opts;		/* strings owned */
	struct http *http;
	struct hosts *hosts;
	struct creds *creds;
	struct auth *auth;
	pthread_mutex_t lock;
	struct hmap *table;		/* "host" or "http://host" -> struct rg_host */
};

struct rg_host {
	struct rg_client *client;
	char *key, *host;
	bool plain;
	unsigned refs;			/* guarded by client->lock */
};
