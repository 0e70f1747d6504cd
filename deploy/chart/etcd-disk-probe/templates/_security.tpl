{{- /* The container's privileges. Both profiles run as root: Kubernetes grants added capabilities to root only. */ -}}
{{- define "probe.containerSecurity" -}}
{{- $preset := include "probe.preset" . | fromYaml }}
{{- $context := dict "runAsUser" 0 "runAsGroup" 0 "runAsNonRoot" false "readOnlyRootFilesystem" true }}
{{- if eq .Values.securityProfile "privileged" }}
{{- /* seccomp and AppArmor never confine a privileged container, regardless of its settings: kubernetes.io,
     "Restrict a Container's Syscalls with seccomp". */ -}}
{{- $_ := set $context "privileged" true }}
{{- else }}
{{- $add := list "BPF" "PERFMON" "SYS_RESOURCE" "SYS_PTRACE" "DAC_READ_SEARCH" }}
{{- if .Values.sysAdmin }}{{ $add = append $add "SYS_ADMIN" }}{{ end }}
{{- $_ := set $context "privileged" false }}
{{- $_ := set $context "allowPrivilegeEscalation" false }}
{{- $_ := set $context "capabilities" (dict "drop" (list "ALL") "add" $add) }}
{{- $_ := set $context "seccompProfile" (dict "type" "Unconfined") }}
{{- if include "probe.hasAppArmorField" . }}
{{- $_ := set $context "appArmorProfile" (dict "type" "Unconfined") }}
{{- end }}
{{- with $preset.seLinuxType }}
{{- $_ := set $context "seLinuxOptions" (dict "type" .) }}
{{- end }}
{{- end }}
{{- mergeOverwrite $context (deepCopy .Values.containerSecurityContext) | toYaml }}
{{- end }}

{{- /* Kubernetes 1.30 replaced the annotation with a field (KEP 24). */ -}}
{{- define "probe.hasAppArmorField" -}}
{{- if semverCompare ">=1.30.0-0" (default .Capabilities.KubeVersion.Version .Values.kubeTargetVersionOverride) }}true{{ end }}
{{- end }}

{{- define "probe.podAnnotations" -}}
{{- $annotations := dict }}
{{- if and (eq .Values.securityProfile "capabilities") (not (include "probe.hasAppArmorField" .)) }}
{{- $_ := set $annotations (printf "container.apparmor.security.beta.kubernetes.io/%s" .Chart.Name) "unconfined" }}
{{- end }}
{{- with mergeOverwrite $annotations .Values.podAnnotations }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- define "probe.affinity" -}}
{{- if .Values.affinity }}
{{- toYaml .Values.affinity }}
{{- else }}
{{- $preset := include "probe.preset" . | fromYaml -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    # A node needs one of these labels.
    nodeSelectorTerms:
      {{- range $preset.nodeLabels }}
      - matchExpressions:
          - key: {{ . }}
            operator: Exists
      {{- end }}
{{- end }}
{{- end }}
