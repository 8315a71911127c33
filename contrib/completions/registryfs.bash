# bash completion for registryfs
_registryfs_options='tag_ttl= timeout= transfers= prefetch= complete background_rate= platform= soci= registries= raw_links cache= cache_size=
	cache_free= state= local= authfile= certs_dir= registries_conf= hosts_dir= tls_verify=
	allow_other allow_root ro suid dev noexec fsname= log= log_level= foreground debug'

_registryfs_mounts() {
	awk '{ for (i = 7; i < NF; i++) if ($i == "-") { if ($(i + 1) == "fuse.registryfs" || $(i + 2) ~ /\/\.image\.erofs$/) print $5; break } }' \
		/proc/self/mountinfo 2>/dev/null
}

# The word behind the last comma of -o.
_registryfs_option() {
	local cur=$1 before= last values
	last=${cur##*,}
	[[ $cur != *,* ]] || before=${cur%,*},
	case $last in
	tls_verify=* | prefetch=*) values='yes no' ;;
	log_level=*) values='error warning info debug' ;;
	soci=*) values='auto v2 off' ;;
	cache_free=* | background_rate=*) values='auto 1G' ;;
	platform=*) values='linux/amd64 linux/arm64' ;;
	cache=* | state=* | local=* | certs_dir=* | hosts_dir=*)
		COMPREPLY=($(compgen -d -P "$before${last%%=*}=" -- "${last#*=}")); compopt -o nospace; return ;;
	authfile=* | registries_conf=* | log=*)
		COMPREPLY=($(compgen -f -P "$before${last%%=*}=" -- "${last#*=}")); return ;;
	*=*) return ;;
	*)
		COMPREPLY=($(compgen -P "$before" -W "$_registryfs_options" -- "$last"))
		compopt -o nospace
		return ;;
	esac
	COMPREPLY=($(compgen -P "$before${last%%=*}=" -W "$values" -- "${last#*=}"))
}

_registryfs() {
	local cur prev word command=
	COMP_WORDBREAKS=${COMP_WORDBREAKS//[=:]/}
	cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in
		mount | umount | status | rootfs | warm | index | version | help) command=$word; break ;;
		-*) ;;
		*) command=mount; break ;;
		esac
	done
	if [[ $prev == -o && $command == rootfs ]]; then
		COMPREPLY=($(compgen -W 'suid dev noexec erofs fuse' -- "$cur"))
		return
	fi
	if [[ $prev == -o && $command != umount && $command != status ]]; then
		_registryfs_option "$cur"
		return
	fi
	case $command in
	umount) COMPREPLY=($(compgen -W "-l $(_registryfs_mounts)" -- "$cur")) ;;
	status) COMPREPLY=($(compgen -W "$(_registryfs_mounts)" -- "$cur")) ;;
	rootfs) COMPREPLY=($(compgen -d -- "$cur")) ;;
	warm) COMPREPLY=($(compgen -f -- "$cur")) ;;
	index) COMPREPLY=($(compgen -W '-o --v2 --platform --all-platforms --span-size --min-layer-size' -- "$cur")) ;;
	help) COMPREPLY=($(compgen -W 'mount umount status rootfs warm index version help' -- "$cur")) ;;
	version) ;;
	*)
		if [[ $cur == -* ]]; then
			COMPREPLY=($(compgen -W '-o -f -d --help --version' -- "$cur"))
		elif [[ $cur == dir:* ]]; then
			COMPREPLY=($(compgen -d -P dir: -- "${cur#dir:}"))
		else
			[[ -n $command ]] || COMPREPLY=($(compgen -W 'mount umount status rootfs warm index version help' -- "$cur"))
			COMPREPLY+=($(compgen -d -- "$cur"))
			[[ -z $cur ]] || COMPREPLY+=($(compgen -W 'docker.io ghcr.io quay.io registry.k8s.io public.ecr.aws dir:' -- "$cur"))
		fi ;;
	esac
}
complete -F _registryfs registryfs
