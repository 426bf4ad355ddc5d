{{- /* What the charts of RFO have in common; the same file in each of them. */ -}}

{{- define "rfo.image" -}}
{{- $registry := .Values.global.systemDefaultRegistry | default "docker.io" | trimSuffix "/" -}}
{{- $image := .Values.image -}}
{{- $tag := required "image.tag is empty: this is the source of the chart; install the packed chart of a release, or name an image" $image.tag -}}
{{- printf "%s/%s:%s" $registry $image.repository $tag -}}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "rfo.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rfo.labels" -}}
{{ include "rfo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end }}
