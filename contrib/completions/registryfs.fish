# fish completion for registryfs
function __registryfs_mounts
	awk '{ for (i = 7; i < NF; i++) if ($i == "-") { if ($(i + 1) == "fuse.registryfs" || $(i + 2) ~ /\/\.image\.erofs$/) print $5; break } }' /proc/self/mountinfo 2>/dev/null
end

function __registryfs_options
	set -l before (string match -r '^.*,' -- (commandline -ct))
	for o in tag_ttl= timeout= transfers= prefetch=no complete background_rate= platform= soci=auto soci=v2 soci=off registries= raw_links cache= cache_size= \
			cache_free= state= local= authfile= certs_dir= registries_conf= hosts_dir= \
			tls_verify=yes tls_verify=no allow_other allow_root ro suid dev noexec fsname= log= \
			log_level=error log_level=warning log_level=info log_level=debug foreground debug
		echo $before$o
	end
end

set -l commands mount umount status rootfs warm index version help
complete -c registryfs -n "not __fish_seen_subcommand_from $commands" -a mount -d 'show a registry as a directory'
complete -c registryfs -n "not __fish_seen_subcommand_from $commands" -a umount -d 'unmount and wait'
complete -c registryfs -n "not __fish_seen_subcommand_from $commands" -a status -d 'list mounts'
complete -c registryfs -n "not __fish_seen_subcommand_from $commands" -a rootfs -d 'mount a file tree as the kernel does'
complete -c registryfs -n "not __fish_seen_subcommand_from $commands" -a warm -d 'fetch for use offline'
complete -c registryfs -n "not __fish_seen_subcommand_from $commands" -a index -d 'build a SOCI index'
complete -c registryfs -n "__fish_seen_subcommand_from index" -l v2 -x -d 'make an image that names its index, under this tag'
complete -c registryfs -n "__fish_seen_subcommand_from index" -l platform -x -d 'which image'
complete -c registryfs -n "__fish_seen_subcommand_from index" -l all-platforms -d 'all images'
complete -c registryfs -n "__fish_seen_subcommand_from index" -l span-size -x -d 'bytes between checkpoints'
complete -c registryfs -n "__fish_seen_subcommand_from index" -l min-layer-size -x -d 'leave out smaller layers'
complete -c registryfs -n "not __fish_seen_subcommand_from $commands" -a version -d 'print the version'
complete -c registryfs -n "not __fish_seen_subcommand_from $commands" -a help -d 'explain a command'
complete -c registryfs -n "not __fish_seen_subcommand_from umount status rootfs warm index version help" -s o -x -a '(__registryfs_options)' -d options
complete -c registryfs -n "not __fish_seen_subcommand_from umount status rootfs warm index version help" -s f -d 'stay in the foreground'
complete -c registryfs -n "not __fish_seen_subcommand_from umount status rootfs warm index version help" -s d -d 'foreground and every detail'
complete -c registryfs -n "__fish_seen_subcommand_from umount status" -f -a '(__registryfs_mounts)'
complete -c registryfs -n "__fish_seen_subcommand_from umount" -s l -d 'detach now'
complete -c registryfs -n "__fish_seen_subcommand_from rootfs" -s o -x -a 'suid dev noexec erofs fuse' -d options
complete -c registryfs -n "__fish_seen_subcommand_from help" -f -a "$commands"
