{{- /* What the container may do. Both profiles run as root: Kubernetes gives capabilities to nobody else. */ -}}
{{- define "probe.containerSecurity" -}}
{{- $preset := include "probe.preset" . | fromYaml }}
{{- $context := dict "runAsUser" 0 "runAsGroup" 0 "runAsNonRoot" false "readOnlyRootFilesystem" true }}
{{- if eq .Values.securityProfile "privileged" }}
{{- /* Such a container is unconfined by seccomp and AppArmor whatever it says: kubernetes.io, "Restrict a Container's Syscalls with seccomp". */ -}}
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

{{- /* Kubernetes 1.30 made a field of the annotation (KEP 24). */ -}}
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
    # Any of these is enough.
    nodeSelectorTerms:
      {{- range $preset.nodeLabels }}
      - matchExpressions:
          - key: {{ . }}
            operator: Exists
      {{- end }}
{{- end }}
{{- end }}
