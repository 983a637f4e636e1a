/**
 * The schedule dialog's body: everything has a default, so that two clicks are enough.
 */

import * as React from 'react';

import type { ICheckLine, IFormField, IJobCheck, ISchedulePreview } from '../api/schema';
import { due } from '../model/format';
import { IWhen, WEEKDAYS, WORDS } from '../model/schedule';
import { Segments } from './shared';

export interface IScheduleFormProps {
  readonly name: string | null;
  readonly when: IWhen;
  readonly zones: ReadonlyArray<string>;
  readonly schedule: ISchedulePreview | null;
  readonly scheduleError: string | null;
  readonly check: IJobCheck | null;
  readonly error: string | null;
  readonly valueOf: (field: IFormField) => string;
  readonly problemOf: (field: IFormField) => string | null;
  readonly onName: (name: string) => void;
  readonly onWhen: (change: Partial<IWhen>) => void;
  readonly onValue: (field: string, value: string) => void;
}

export function ScheduleForm(props: IScheduleFormProps): JSX.Element {
  const { check } = props;
  return (
    <div className="jp-mlb-Schedule">
      <div className="jp-mlb-Schedule-left">
        <label className="jp-mlb-Field">
          <span className="jp-mlb-Field-label">Name</span>
          <input
            type="text"
            className="jp-mod-styled"
            value={props.name ?? check?.name ?? ''}
            onChange={event => props.onName(event.target.value)}
          />
        </label>
        <When {...props} />
        {check && check.fields.length > 0 && (
          <fieldset className="jp-mlb-Schedule-parameters">
            <legend>Parameters</legend>
            {check.fields.map(field => (
              <ParameterField
                key={field.name}
                field={field}
                value={props.valueOf(field)}
                problem={props.problemOf(field)}
                onValue={value => props.onValue(field.name, value)}
              />
            ))}
          </fieldset>
        )}
      </div>
      <div className="jp-mlb-Schedule-right">
        <h3>Next runs</h3>
        {props.schedule ? (
          <ol className="jp-mlb-Schedule-next" aria-label="Next runs">
            {props.schedule.next.map(time => (
              <li key={time}>{due(time)}</li>
            ))}
          </ol>
        ) : (
          <p className="jp-mod-quiet">{props.scheduleError ? 'None.' : 'Asking the server …'}</p>
        )}
        <h3>Checked</h3>
        {check ? (
          <Checked lines={check.checked} />
        ) : (
          !props.error && <p className="jp-mod-quiet">Reading the notebook …</p>
        )}
        {check && <p className="jp-mlb-Schedule-service">{check.service}</p>}
      </div>
      <p className="jp-mlb-Schedule-foot">
        Later edits of the notebook do not change this job.
        {check && check.version > 1 ? ` This is version ${check.version} of it.` : ''}
      </p>
      {props.error && (
        <p className="jp-mlb-Schedule-error" role="alert">
          {props.error}
        </p>
      )}
    </div>
  );
}

function When(props: IScheduleFormProps): JSX.Element {
  const { when, onWhen, zones, schedule, scheduleError } = props;
  return (
    <fieldset className="jp-mlb-Field">
      <legend className="jp-mlb-Field-label">When</legend>
      <Segments
        label="When"
        choices={WORDS.map(word => [word, word] as const)}
        chosen={when.word}
        onChoose={word => onWhen({ word })}
      />
      <div className="jp-mlb-Schedule-time">
        {when.word === 'Weekly' && (
          <>
            on{' '}
            <select
              aria-label="Day of the week"
              value={when.weekday}
              onChange={event => onWhen({ weekday: Number(event.target.value) })}
            >
              {WEEKDAYS.map((name, at) => (
                <option key={name} value={at}>
                  {name}
                </option>
              ))}
            </select>
          </>
        )}
        {when.word === 'Monthly' && (
          <>
            on day{' '}
            <input
              type="number"
              aria-label="Day of the month"
              min={1}
              max={31}
              value={when.day}
              onChange={event => onWhen({ day: Number(event.target.value) })}
            />
          </>
        )}
        {when.word === 'Cron' ? (
          <input
            type="text"
            aria-label="Cron line"
            className="jp-mlb-Schedule-cron"
            spellCheck={false}
            value={when.cron}
            onChange={event => onWhen({ cron: event.target.value })}
          />
        ) : when.word === 'Hourly' ? (
          <>
            at minute{' '}
            <input
              type="number"
              aria-label="Minute"
              min={0}
              max={59}
              value={Number(when.time.split(':')[1])}
              onChange={event =>
                onWhen({
                  time: `${when.time.split(':')[0]}:${event.target.value.padStart(2, '0')}`
                })
              }
            />
          </>
        ) : (
          <>
            at{' '}
            <input
              type="time"
              aria-label="Time"
              value={when.time}
              onChange={event => onWhen({ time: event.target.value || '00:00' })}
            />
          </>
        )}{' '}
        in{' '}
        <select
          aria-label="Time zone"
          value={when.timezone}
          onChange={event => onWhen({ timezone: event.target.value })}
        >
          {zones.map(zone => (
            <option key={zone}>{zone}</option>
          ))}
        </select>
      </div>
      <Meaning schedule={schedule} error={scheduleError} />
    </fieldset>
  );
}

function Meaning(props: {
  readonly schedule: ISchedulePreview | null;
  readonly error: string | null;
}): JSX.Element {
  return (
    <div className="jp-mlb-Schedule-meaning" aria-live="polite">
      {props.error ? (
        <span className="jp-mlb-Field-problem">{props.error}</span>
      ) : (
        props.schedule && (
          <>
            <code>{props.schedule.cron}</code> {props.schedule.sentence}
          </>
        )
      )}
    </div>
  );
}

interface IParameterFieldProps {
  readonly field: IFormField;
  readonly value: string;
  readonly problem: string | null;
  readonly onValue: (value: string) => void;
}

/** A problem is not marked by `jp-mod-error`: that locks the dialog's button, and only the next key would free it. */
function ParameterField({ field, value, problem, onValue }: IParameterFieldProps): JSX.Element {
  const id = `jp-mlb-parameter-${field.name}`;
  const help = [field.type, field.required ? 'required' : '', field.help ?? ''];
  return (
    <div className="jp-mlb-Field">
      <label className="jp-mlb-Field-label" htmlFor={id}>
        {field.name} <span>{help.filter(Boolean).join(' · ')}</span>
      </label>
      {field.type === 'bool' ? (
        <select
          id={id}
          value={value === 'true' || value === 'True' ? 'true' : 'false'}
          onChange={event => onValue(event.target.value)}
        >
          <option value="true">True</option>
          <option value="false">False</option>
        </select>
      ) : (
        <input
          id={id}
          type="text"
          className="jp-mod-styled"
          aria-invalid={problem !== null}
          aria-describedby={problem ? `${id}-problem` : undefined}
          spellCheck={false}
          value={value}
          onChange={event => onValue(event.target.value)}
        />
      )}
      {problem && (
        <div className="jp-mlb-Field-problem" id={`${id}-problem`} role="alert">
          {problem}
        </div>
      )}
    </div>
  );
}

const SIGNS: { readonly [level in ICheckLine['level']]: readonly [string, string] } = {
  ok: ['✓', 'in order'],
  warning: ['!', 'worth a look'],
  error: ['✕', 'to be put right']
};

function Checked({ lines }: { readonly lines: ReadonlyArray<ICheckLine> }): JSX.Element {
  return (
    <ul className="jp-mlb-Schedule-checked">
      {lines.map((line, at) => (
        <li key={at} data-level={line.level}>
          <span role="img" aria-label={SIGNS[line.level][1]}>
            {SIGNS[line.level][0]}
          </span>
          {line.text}
        </li>
      ))}
    </ul>
  );
}
