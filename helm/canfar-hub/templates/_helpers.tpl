{{/* Names. One release in a namespace, so that its objects have plain names: hub, gateway. */}}
{{- define "canfar.sessions" -}}
{{ .Values.namespaces.sessions | default (printf "%s-sessions" .Release.Namespace) }}
{{- end }}
{{- define "canfar.homes" -}}
{{ .Values.namespaces.homes | default (printf "%s-homes" .Release.Namespace) }}
{{- end }}
{{- define "canfar.secret" -}}
{{ .Values.secrets.existing | default "hub" }}
{{- end }}

{{/* Whether a Job in a namespace of its own makes homes. */}}
{{- define "canfar.provisions" -}}
{{- if eq (dig "cluster" "homes" "source" "made" (.Values.site | toYaml | fromYaml)) "provisioner" }}yes{{ end }}
{{- end }}

{{/* The claims of the shared volume, in either namespace. */}}
{{- define "canfar.claim.sessions" -}}
{{ .Values.storage.claims.sessions | default "data" }}
{{- end }}
{{- define "canfar.claim.homes" -}}
{{ .Values.storage.claims.homes | default "data" }}
{{- end }}

{{/*
Where homes and projects are: as the values say; else where they are already; else, on the only node, a folder of it.
A volume like that is bound to its node, so that on another one a session waits instead of meeting an empty home.
*/}}
{{- define "canfar.volume" -}}
{{- if .Values.storage.volume }}
{{- .Values.storage.volume | toYaml }}
{{- else }}
{{- with lookup "v1" "PersistentVolume" "" (printf "%s-data" (include "canfar.sessions" .)) }}
{{- omit .spec "accessModes" "capacity" "claimRef" "mountOptions" "persistentVolumeReclaimPolicy" "storageClassName" "volumeMode" | toYaml }}
{{- else }}
{{- $nodes := (lookup "v1" "Node" "" "").items | default list }}
{{- if ne (len $nodes) 1 }}
{{- fail "\n\nSay where homes and projects are, which only a cluster of one node need not be told: storage.volume is a volume's source in Kubernetes' form, such as nfs: {server: nfs.example.org, path: /arc}. Or name claims of yours in storage.claims.sessions and storage.claims.homes." }}
{{- end }}
{{- $host := dict "key" "kubernetes.io/hostname" "operator" "In" "values" (list (index (first $nodes).metadata.labels "kubernetes.io/hostname")) }}
{{- dict "hostPath" (dict "path" (include "canfar.folder" .) "type" "DirectoryOrCreate") | toYaml }}
{{ dict "nodeAffinity" (dict "required" (dict "nodeSelectorTerms" (list (dict "matchExpressions" (list $host))))) | toYaml }}
{{- end }}
{{- end }}
{{- end }}
{{/* That folder. */}}
{{- define "canfar.folder" -}}
/var/lib/canfar-hub/{{ .Release.Namespace }}
{{- end }}

{{- define "canfar.labels" -}}
app.kubernetes.io/name: canfar-hub
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}
{{/* What never changes of the labels. */}}
{{- define "canfar.selector" -}}
app.kubernetes.io/name: canfar-hub
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image's reference: as given if it has a tag or a digest, else with the chart's version. */}}
{{- define "canfar.image" -}}
{{- if or (contains "@" .image) (contains ":" (last (splitList "/" .image))) -}}
{{ .image }}
{{- else -}}
{{ .image }}:{{ .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "canfar.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "canfar.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pod Security's level `restricted`, and files that nothing changes. */}}
{{- define "canfar.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10101
runAsGroup: 10101
fsGroup: 10101
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "canfar.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Whether each user's sessions have a host of their own. */}}
{{- define "canfar.subdomains" -}}
{{- if dig "subdomains" true (.Values.site | toYaml | fromYaml) }}yes{{ end }}
{{- end }}

{{/* The public address's host. */}}
{{- define "canfar.host" -}}
{{ (urlParse .Values.site.public_url).host | regexFind "^[^:]+" }}
{{- end }}

{{/* How long the gateway relies on what the hub said, as the site's settings have it: a tenth of `refresh`. */}}
{{- define "canfar.decisionSeconds" -}}
{{- $refresh := dig "groups" "refresh" 300 (.Values.site | toYaml | fromYaml) | float64 -}}
{{- if lt $refresh 300.0 }}{{ divf $refresh 10 }}{{ else }}30{{ end }}
{{- end }}

{{/* The site file: the site's own settings, and what the chart decides. */}}
{{- define "canfar.site" -}}
{{- $homes := dict "namespace" (include "canfar.homes" .) "claim" (include "canfar.claim.homes" .) }}
{{- $_ := set $homes "image" (include "canfar.image" (dict "image" .Values.images.provisioner "root" .)) }}
{{- $volume := dict "claim" (include "canfar.claim.sessions" .) }}
{{- $cluster := dict "homes" $homes "volume" $volume }}
{{- if .Values.networkPolicy.enabled }}
{{- $_ := set $cluster "desktop_policies" true }}
{{- end }}
{{- if .Values.prepull.enabled }}
{{- $_ := set $cluster "prepull_namespace" .Release.Namespace }}
{{- end }}
{{- $_ := set $cluster "hub_url" (printf "http://gateway.%s.svc" .Release.Namespace) }}
{{- if .Values.registries.secret }}
{{- $_ := set $cluster "registries" "/etc/canfar/registries/config.json" }}
{{- end }}
{{- $decided := dict "catalogue" "/etc/canfar/catalogue" "cluster" $cluster }}
{{- mergeOverwrite (deepCopy .Values.site) $decided | toYaml }}
{{- end }}

{{/*
The secrets that hub and gateway share, made once: an upgrade finds them in the cluster. In one rendering they are
made once, too, so that their checksum is theirs.
*/}}
{{- define "canfar.secrets" -}}
{{- if not (hasKey .Values "madeSecrets") }}
{{- $found := (lookup "v1" "Secret" .Release.Namespace "hub").data | default dict }}
{{- $made := dict }}
{{- range list "CANFAR_SITE_KEY" "CANFAR_GATEWAY_TOKEN" "CANFAR_METRICS_TOKEN" "CONFIGPROXY_AUTH_TOKEN" "JUPYTERHUB_CRYPT_KEY" "JPY_COOKIE_SECRET" }}
{{- $_ := set $made . (get $found . | default (randBytes 32 | sha256sum | b64enc)) }}
{{- end }}
{{- $client := .Values.secrets.clientSecret | b64enc | default (get $found "CANFAR_CLIENT_SECRET") }}
{{- if not $client }}
{{- fail "\n\nSet secrets.clientSecret to the hub's secret at the identity provider, or name a Secret of yours in secrets.existing." }}
{{- end }}
{{- $_ := set $made "CANFAR_CLIENT_SECRET" $client }}
{{- $_ := set .Values "madeSecrets" $made }}
{{- end }}
{{- .Values.madeSecrets | toYaml }}
{{- end }}

{{/* One variable from the Secret of hub and gateway. */}}
{{- define "canfar.secretVariable" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ include "canfar.secret" .root }}, key: {{ .name }}}}
{{- end }}

{{/* The images of the catalogue, each once. */}}
{{- define "canfar.catalogueImages" -}}
{{- $images := list }}
{{- range .Values.catalogue }}
{{- range dig "profiles" list (. | default dict) }}
{{- $images = concat $images .images }}
{{- end }}
{{- end }}
{{- $images | uniq | toYaml }}
{{- end }}
