{{- define "wakegate.name" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "wakegate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wakegate.labels" -}}
{{ include "wakegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* On the host's network two pods of a node would want the same port. */ -}}
{{- define "wakegate.kind" -}}
{{- if .Values.hostNetwork }}DaemonSet{{ else }}Deployment{{ end }}
{{- end }}

{{- /* Whether clients come to it: a node of a fleet is reached by fronts alone. */ -}}
{{- define "wakegate.meetsClients" -}}
{{- if ne .Values.fleet.role "node" }}true{{ end }}
{{- end }}

{{- /* Where the certificate of a fleet's member is. */ -}}
{{- define "wakegate.identity" -}}
/run/fleet/identity
{{- end }}

{{- /* Whether the admin listener is for the node alone: no NetworkPolicy guards the host's network. */ -}}
{{- define "wakegate.adminIsLocal" -}}
{{- if and .Values.hostNetwork (not .Values.podMonitor.enabled) }}true{{ end }}
{{- end }}

{{- define "wakegate.probe" -}}
httpGet: { path: {{ .path }}, port: admin{{ if include "wakegate.adminIsLocal" .root }}, host: 127.0.0.1{{ end }} }
{{- end }}
