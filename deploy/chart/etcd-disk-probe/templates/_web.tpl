{{- define "probe.serverName" -}}
{{- default (printf "etcd-disk-probe.%s.svc" (include "probe.namespace" .)) .Values.tls.serverName }}
{{- end }}

{{- define "probe.tlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" }}
{{- required "tls.mode existingSecret requires the secret's name: set tls.existingSecret" .Values.tls.existingSecret }}
{{- else }}
{{- include "probe.fullname" . }}-tls
{{- end }}
{{- end }}

{{- define "probe.isLoopback" -}}
{{- if regexMatch "^(127\\..*|::1)$" .Values.listen.address }}true{{ end }}
{{- end }}

{{- /* The file of --web.config.file, in the format of Prometheus' exporters: docs/web.md. */ -}}
{{- define "probe.webConfig" -}}
{{- $config := dict }}
{{- if ne .Values.tls.mode "none" }}
{{- $directory := "/etc/etcd-disk-probe/tls" }}
{{- $tls := dict "cert_file" (printf "%s/tls.crt" $directory) "key_file" (printf "%s/tls.key" $directory) }}
{{- $_ := set $config "tls_server_config" $tls }}
{{- end }}
{{- with .Values.basicAuth.users }}
{{- $_ := set $config "basic_auth_users" . }}
{{- end }}
{{- mergeOverwrite $config (deepCopy .Values.webConfig) | toYaml }}
{{- end }}

{{- /* Returns true if the kubelet cannot send requests, because it has no certificate or password of its own. */ -}}
{{- define "probe.isClosedToKubelet" -}}
{{- $config := include "probe.webConfig" . | fromYaml }}
{{- $clients := dig "tls_server_config" "client_auth_type" "" $config }}
{{- $users := dig "basic_auth_users" dict $config }}
{{- if or (has $clients (list "RequireAnyClientCert" "RequireAndVerifyClientCert")) (and $users (not .Values.basicAuth.kubeletAuthorization)) }}true{{ end }}
{{- end }}

{{- /* A kubelet probe. Arguments: (list $ "/-/ready" settings). */ -}}
{{- define "probe.httpGet" -}}
{{- $ := index . 0 }}
{{- $host := "" }}
{{- if include "probe.isLoopback" $ }}{{ $host = $.Values.listen.address }}{{ end }}
{{- if include "probe.isClosedToKubelet" $ }}
tcpSocket:
  port: metrics
  {{- with $host }}
  host: {{ . | quote }}
  {{- end }}
{{- else }}
httpGet:
  path: {{ index . 1 }}
  port: metrics
  {{- with $host }}
  host: {{ . | quote }}
  {{- end }}
  {{- /* The kubelet does not verify the certificate. */}}
  scheme: {{ ternary "HTTP" "HTTPS" (eq $.Values.tls.mode "none") }}
  {{- with $.Values.basicAuth.kubeletAuthorization }}
  httpHeaders:
    - name: Authorization
      value: {{ . | quote }}
  {{- end }}
{{- end }}
{{ toYaml (index . 2) }}
{{- end }}

{{- /* Checks that a schema cannot express. */ -}}
{{- define "probe.validate" -}}
{{- if and (eq .Values.tls.mode "none") (not (include "probe.isLoopback" .)) (not .Values.tls.acknowledgePlaintext) }}
{{- fail "tls.mode none exposes metrics and reports to any client: set listen.address to a loopback address, or tls.acknowledgePlaintext to true" }}
{{- end }}
{{- if and (include "probe.isLoopback" .) (not .Values.hostNetwork) }}
{{- fail "listen.address is a loopback address of the pod, which no client can reach: set hostNetwork to true" }}
{{- end }}
{{- if and (eq .Values.tls.mode "certManager") (not .Values.tls.certManager.issuerRef.name) }}
{{- fail "tls.mode certManager requires the issuer's name: set tls.certManager.issuerRef.name" }}
{{- end }}
{{- end }}
